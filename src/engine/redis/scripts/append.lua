-- Appends a publication: assigns its offset, stores it and publishes it to all nodes.
-- KEYS  1 state (hash)  2 log (stream)
-- ARGV  1 epoch for a channel that lost its data  2 run marker  3 kind, publisher and data, as in wire.rs
--       4 payload bytes  5 max_messages  6 max_data_bytes  7 max_message_bytes  8 lifespan in ms (0: no limit, all four)
--       9 backlog length  10 TTL of an unused channel in ms  11 TTL of its log in ms  12 pub/sub name
--       13 command that publishes; with a cluster key also: 14 node  15 identifier  16 epoch and 17 offset that the node
--       foresaw  18 MAC for that position  19 MAC for any other
-- Returns {"ok", epoch, offset} | {"ended", reason} | {"large", limit} | {"limit", reason}: the last ends the channel.
local names = {'epoch', 'run', 'offset', 'bytes', 'created', 'ended', 'max_messages', 'max_data_bytes', 'max_message_bytes', 'lifespan', 'recent'}
local values = redis.call('HMGET', KEYS[1], unpack(names))
local state = {}
for at, name in ipairs(names) do state[name] = values[at] or nil end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local publish, run = ARGV[13], ARGV[2]
-- A failover makes another server the master of the slot, which may lack the newest publications.
if string.find(run, '^cluster') then run = run .. redis.call('CLUSTER', 'MYID') end

local function integer(number) return string.format('%.0f', number) end

local function tighter(configured, declared)
  configured, declared = tonumber(configured), tonumber(declared or 0)
  if configured == 0 or (declared ~= 0 and declared < configured) then return declared end
  return configured
end

-- A server that restarted without its data has no epoch; one that may have lost its newest writes has another marker.
if not state.epoch or state.run ~= run then
  local epoch = state.epoch and ARGV[1] or first_epoch(now, ARGV[10], run)
  redis.call('DEL', KEYS[2], key_of('wait'))
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'offset', 0)
  redis.call('HSETNX', KEYS[1], 'created', integer(now))
  redis.call('PEXPIRE', KEYS[1], ARGV[10])
  state.epoch, state.offset, state.created = epoch, 0, state.created or now
end

if state.ended then return {'ended', state.ended} end

-- The client of a Cluster repeats a command whose answer it lost. Nodes would refuse the publication at a second offset.
local own = ARGV[14] and string.find(run, '^cluster') and state.epoch .. '/' .. ARGV[14] .. ':' .. ARGV[15]
local first = own and string.match(state.recent or '', ' ' .. own .. '=(%d+) ')
if first then return {'ok', state.epoch, first} end

local function finish(reason)
  redis.call('HSET', KEYS[1], 'ended', reason)
  redis.call('DEL', KEYS[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[10])
  redis.call(publish, ARGV[12], 'e ' .. state.epoch .. ' ' .. reason)
  return {'limit', reason}
end

local lifespan = tighter(ARGV[8], state.lifespan)
if lifespan ~= 0 and now - state.created >= lifespan then return finish('lifespan_expired') end
local size = tonumber(ARGV[4])
local max_message = tighter(ARGV[7], state.max_message_bytes)
if max_message ~= 0 and size > max_message then return {'large', integer(max_message)} end
local offset, bytes = state.offset + 1, (state.bytes or 0) + size
local max_messages = tighter(ARGV[5], state.max_messages)
if max_messages ~= 0 and offset > max_messages then return finish('message_limit') end
local max_data = tighter(ARGV[6], state.max_data_bytes)
if max_data ~= 0 and bytes > max_data then return finish('data_limit') end

redis.call('HSET', KEYS[1], 'offset', integer(offset), 'bytes', integer(bytes))
if own then
  -- More than are in flight at once.
  local recent = string.sub((state.recent or ' ') .. own .. '=' .. integer(offset) .. ' ', -4096)
  redis.call('HSET', KEYS[1], 'recent', string.match(recent, ' .*'))
end
local publication = state.epoch .. ' ' .. integer(offset) .. ' ' .. integer(now) .. ' '
if ARGV[14] then
  local is_foreseen = state.epoch == ARGV[16] and integer(offset) == ARGV[17]
  local mac = is_foreseen and 'b' .. ARGV[18] or 'f' .. ARGV[19]
  publication = 'q ' .. publication .. ARGV[14] .. ' ' .. ARGV[15] .. ' ' .. mac .. ' ' .. ARGV[3]
else
  publication = 'p ' .. publication .. ARGV[3]
end
local backlog = tonumber(ARGV[9])
if backlog > 0 then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', backlog, integer(offset) .. '-0', 'p', publication)
  redis.call('PEXPIRE', KEYS[2], ARGV[11])
end
redis.call('PEXPIRE', KEYS[1], ARGV[10])
redis.call(publish, ARGV[12], publication)
return {'ok', state.epoch, integer(offset)}
