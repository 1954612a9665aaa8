-- Gives a name to who claims it first.
-- KEYS: the name. ARGV: the value, a value that may be replaced, milliseconds. Answers the value that the name has.
local value = redis.call('GET', KEYS[1])
if value and value ~= ARGV[1] and value ~= ARGV[2] then
  return value
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
