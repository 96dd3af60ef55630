-- Tells an origin, ARGV[3], what became of its lines: ARGV[4]. Late or twice it says nothing new.
allow_when_full()
local refused = refusal_of_any()
if refused then return refused end
append(ARGV[3], 'a', LIFE, 'w', ARGV[4])
return 'OK'
