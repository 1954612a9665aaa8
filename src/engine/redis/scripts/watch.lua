-- Asks all nodes to tell one of them who comes and goes on a channel: those that listen to it now, and those that come later.
-- KEYS  1 watch (hash node -> until)  2 seats
-- ARGV  1 node that wants to be told  2 for how long, in ms  3 pub/sub name  4 command that publishes
-- Gives {node, subscribers, node, subscribers, ...} of all other nodes.
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
local seats, others = redis.call('HGETALL', KEYS[2]), {}
for at = 1, #seats, 2 do
  local count, till = string.match(seats[at + 1], '^(%d+) (%d+)$')
  if till and tonumber(till) > now and seats[at] ~= ARGV[1] then
    others[#others + 1] = seats[at]
    others[#others + 1] = count
  end
end
return others
