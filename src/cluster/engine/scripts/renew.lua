-- Raises the caller's lease counter, writes the ping that its ingress has to read before it may do so
-- again, and tells all lives with their states and counters. The engine's clock is in no rule.
allow_when_full()
local meta = redis.call('HMGET', META, 'inc', 'phase')
if meta[1] ~= INC or not READS[state(LIFE)] then return 'UNKNOWN' end
if ARGV[3] == 'ping' then
    local counter = redis.call('HINCRBY', P .. 'counters', LIFE, 1)
    append(LIFE, 'g', whole(counter))
end
local all = { meta[2] }
for _, life in ipairs(redis.call('HKEYS', LIVES)) do
    all[#all + 1] = life
    all[#all + 1] = state(life)
    all[#all + 1] = tostring(redis.call('HGET', P .. 'counters', life) or '0')
end
return all
