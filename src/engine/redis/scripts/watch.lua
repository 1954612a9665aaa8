-- Requests presence updates of a channel for one node, from nodes with a mirror now and from those that have one later.
-- KEYS  1 watch (hash node -> expiry)  2 reserved slots
-- ARGV  1 node that watches  2 lease in ms  3 pub/sub name  4 command that publishes
-- Returns {node, subscribers, node, subscribers, ...} of all other nodes.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- First, because it needs no memory.
redis.call(ARGV[4], ARGV[3], 'w ' .. ARGV[1])
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  if tonumber(all[at + 1]) <= now then redis.call('HDEL', KEYS[1], all[at]) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local slots, others = redis.call('HGETALL', KEYS[2]), {}
for at = 1, #slots, 2 do
  local count, till = string.match(slots[at + 1], '^(%d+) (%d+)$')
  if till and tonumber(till) > now and slots[at] ~= ARGV[1] then
    others[#others + 1] = slots[at]
    others[#others + 1] = count
  end
end
return others
