-- A client leaves a room. ARGV[3] is the command's number, [4] the room, [5] the client's name.
allow_when_full()
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local room, name = ARGV[4], ARGV[5]
local key = P .. 'seats:' .. LIFE .. ':' .. room
if redis.call('ZREM', key, name) == 1 then
    if redis.call('EXISTS', key) == 0 then
        drop_held(room, LIFE)
        clear_room(room, LIFE)
    end
    tell_room(room, '-' .. name)
end
return 'OK'
