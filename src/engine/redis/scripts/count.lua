-- Counts, over a time that begins with the first count.
-- KEYS: the name. ARGV: how many more, milliseconds. Answers how many there are.
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return count
