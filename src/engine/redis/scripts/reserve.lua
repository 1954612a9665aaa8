-- Reserves places, of a channel or of something else, for a node, renews its lease, or gives places back; keeps what is
-- listened to alive.
-- KEYS  1 seats (hash node -> "count until")  2 state of the channel, if it is one
-- ARGV  1 node  2 places wanted in all  3 places of all nodes together (0: no limit)  4 lease in ms
--       5 places that are taken already, whatever the limit says  6 ms until an unused channel is forgotten
--       7 and on: nodes that are gone
-- Gives {places this node has now, places of all other nodes, those nodes}: never more than the limit.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 7, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
local all, others, nodes = redis.call('HGETALL', KEYS[1]), 0, {}
for at = 1, #all, 2 do
  local count, till = string.match(all[at + 1], '^(%d+) (%d+)$')
  if not till or tonumber(till) <= now then
    redis.call('HDEL', KEYS[1], all[at])
  elseif all[at] ~= ARGV[1] then
    others = others + count
    nodes[#nodes + 1] = all[at]
  end
end
local wanted, limit, taken = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
if limit ~= 0 and others + wanted > limit then wanted = math.max(taken, limit - others) end
if wanted <= 0 then
  wanted = 0
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', wanted, now + ARGV[4]))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
if KEYS[2] then redis.call('PEXPIRE', KEYS[2], ARGV[6]) end
return {wanted, others, nodes}
