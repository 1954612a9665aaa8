-- Sets a value unless the name has another one. KEYS: the name.
-- ARGV: the value, a value that may be replaced, TTL in ms. Returns the value that the name has afterwards.
local value = redis.call('GET', KEYS[1])
if value and value ~= ARGV[1] and value ~= ARGV[2] then
  return value
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
