-- Begins a connection: which incarnation this engine is in, and what it knows of the caller.
-- ARGV[3] is a random number. An engine that was restarted, or that was a replica, has another
-- `run_id` than the one stored; what it has left of the former incarnation is deleted, since old
-- marks, answers and lines would be read once more.
allow_when_full()
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or '?'
local meta = redis.call('HMGET', META, 'inc', 'phase')
if not meta[1] or string.match(meta[1], '^(%x+)%-') ~= run then
    local function delete(lives)
        for _, life in ipairs(lives) do
            for _, room in ipairs(redis.call('SMEMBERS', P .. 'rooms:' .. life)) do clear_room(room, life) end
            for _, key in ipairs({ 'in:', 'of:', 'left:', 'told:' }) do
                redis.call('DEL', P .. key .. life)
            end
        end
    end
    delete(redis.call('HKEYS', LIVES))
    delete(redis.call('SMEMBERS', P .. 'entered'))
    for _, name in ipairs(redis.call('SMEMBERS', HOLDS)) do redis.call('DEL', P .. 'hold:' .. name) end
    for _, room in ipairs(redis.call('SMEMBERS', ROOMS)) do redis.call('DEL', P .. 'room:' .. room) end
    redis.call('DEL', META, LIVES, NAMES, LAST, ORDER, HOLDS, ROOMS, P .. 'entered', P .. 'counters')
    meta = { run .. '-' .. ARGV[3], 'early' }
    redis.call('HSET', META, 'inc', meta[1], 'phase', 'early', 'claims', '0', 'format', '1')
    known_states = {}
end
local format = redis.call('HGET', META, 'format') or '1'
return { meta[1], meta[2], state(LIFE) or '', format }
