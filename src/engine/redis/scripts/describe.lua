-- Returns the state of a channel, or of a name that subscribers may wait for, for a description.
-- KEYS  1 state  2 reserved slots   ARGV  1 this node  2 TTL of an unused channel in ms  3 run marker
-- Returns {epoch, offset, bytes, created in ms, ended, declared, subscribers of all other nodes, 1 if there is a channel}.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'bytes', 'created', 'ended', 'declared')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run = ARGV[3]
if string.find(run, '^cluster') then run = run .. redis.call('CLUSTER', 'MYID') end
local all, others = redis.call('HGETALL', KEYS[2]), 0
for at = 1, #all, 2 do
  local count, till = string.match(all[at + 1], '^(%d+) (%d+)$')
  if till and tonumber(till) > now and all[at] ~= ARGV[1] then others = others + count end
end
local function integer(number) return string.format('%.0f', number) end
local exists = state[1] and '1' or '0'
local epoch = state[1] or first_epoch(now, ARGV[2], run)
return {epoch, state[2] or '0', state[3] or '0', state[4] or integer(now), state[5] or '', state[6] or '', integer(others), exists}
