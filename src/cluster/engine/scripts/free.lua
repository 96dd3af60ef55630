-- A session's name is free, if it is still that session's. While its life leaves and something is held
-- for it, it is not: that waits for the client elsewhere, and is named if it does not come. ARGV[3] is
-- the command's number, [4] the name, [5] the session.
allow_when_full()
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local life, session = owner(ARGV[4])
if life == LIFE and session == ARGV[5]
    and (state(LIFE) == 'here' or redis.call('SISMEMBER', HOLDS, ARGV[4]) == 0) then
    take(ARGV[4], LIFE)
end
return 'OK'
