-- Adds to a count that expires a fixed time after its first increment.
-- KEYS: the name. ARGV: increment, TTL in ms. Returns the count.
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return count
