-- A client logs in. ARGV[3] is the command's number, [4] the name, [5] the session, [6] the lives
-- whose lease is overdue, as the caller sees it, each between blanks.
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local name, session = ARGV[4], ARGV[5]
-- A life that was released does not read what was held for the name.
if state(LIFE) == 'released' then
    append(LIFE, 't', session, 'n', name)
    return 'OK'
end
local life, other = owner(name)
if life then
    local now = state(life)
    if is_leaving(now) or (now == 'here' and string.find(ARGV[6], ' ' .. life .. ' ', 1, true)) then
        append(LIFE, 'w', session, 'n', name)
        return 'OK'
    end
    if now ~= 'released' and now ~= 'down' then
        append(LIFE, 't', session, 'n', name)
        return 'OK'
    end
    take(name, life)
end
local claim = whole(redis.call('HINCRBY', META, 'claims', 1))
give(name, LIFE, session, claim)
-- First what is held for the name, then the mark: nothing that is local from then on overtakes it.
if redis.call('SISMEMBER', HOLDS, name) == 1 then move_held(take_held(name, session, {}), LIFE) end
append(LIFE, 'l', session, 'n', name, 'c', claim)
return 'OK'
