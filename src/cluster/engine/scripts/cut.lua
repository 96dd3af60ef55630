-- The caller's readers are cut: this stands behind its last line.
allow_when_full()
local refused = refusal(tonumber(ARGV[3]))
if refused then return refused end
if state(LIFE) == 'leaving' then set_state(LIFE, 'cut') end
return 'OK'
