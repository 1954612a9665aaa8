-- Returns the state of a channel for a description.
-- KEYS  1 state  2 reserved slots   ARGV  1 this node
-- Returns {epoch, offset, bytes, created in ms, ended, declared, subscribers of all other nodes}, or nil.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'bytes', 'created', 'ended', 'declared')
if not state[1] then return false end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all, others = redis.call('HGETALL', KEYS[2]), 0
for at = 1, #all, 2 do
  local count, till = string.match(all[at + 1], '^(%d+) (%d+)$')
  if till and tonumber(till) > now and all[at] ~= ARGV[1] then others = others + count end
end
return {state[1], state[2] or '0', state[3] or '0', state[4] or '0', state[5] or '', state[6] or '', string.format('%.0f', others)}
