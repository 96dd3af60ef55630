-- A client enters a room. ARGV[3] is the command's number, [4] the room, [5] the client's name, [6]
-- the caller's number for the question how many are in it then.
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
local room, name = ARGV[4], ARGV[5]
seat(room, LIFE, name)
tell_room(room, '+' .. name)
append(LIFE, 'q', ARGV[6], 'c', members(room), 'n', '')
return 'OK'
