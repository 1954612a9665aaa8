-- Sets the slots that a node has reserved under a name, up to a limit over all nodes, and renews the node's lease. For a
-- channel's subscribers it also keeps the channel's state from expiring, or reserves the epoch they wait with.
-- KEYS  1 reserved slots (hash node -> "count expiry"); for a channel also  2 its state  3 reserved epoch
-- ARGV  1 node  2 slots wanted in all  3 limit over all nodes (0: no limit)  4 lease in ms
--       5 slots in use already, which the limit does not reduce  6 TTL of an unused channel in ms
--       7 epoch of a waiting name, or empty, for a channel; otherwise 7 and on: nodes that are not alive
-- Returns {slots of this node, slots of all other nodes, those nodes}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not KEYS[2] then
  for at = 7, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
end
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
if KEYS[2] and redis.call('PEXPIRE', KEYS[2], ARGV[6]) == 0 and wanted > 0 and ARGV[7] ~= '' then
  -- Subscribers of a node that stopped come back with this epoch.
  redis.call('SET', KEYS[3], ARGV[7], 'PX', ARGV[6], 'NX')
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
return {wanted, others, nodes}
