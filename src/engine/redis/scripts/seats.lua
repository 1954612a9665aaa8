-- Reserves places of a channel for a node, renews its lease, or gives places back.
-- KEYS  1 seats (hash node -> "count until")
-- ARGV  1 node  2 places wanted in all  3 places of all nodes together (0: no limit)  4 lease in ms
-- Gives {places this node has now, places of all nodes}: never more than the limit.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all, others = redis.call('HGETALL', KEYS[1]), 0
for at = 1, #all, 2 do
  local count, till = string.match(all[at + 1], '^(%d+) (%d+)$')
  if tonumber(till) <= now then
    redis.call('HDEL', KEYS[1], all[at])
  elseif all[at] ~= ARGV[1] then
    others = others + count
  end
end
local wanted, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
if limit ~= 0 and others + wanted > limit then wanted = math.max(0, limit - others) end
if wanted == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', wanted, now + ARGV[4]))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return {wanted, others + wanted}
