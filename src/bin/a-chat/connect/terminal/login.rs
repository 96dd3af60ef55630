//! Asks for the user's name before the conversation starts. Runs on the main thread.

use std::io;

use a_chat::Name;

use super::console::Console;
use super::keys::Key;
use super::line::Line;
use super::screen::Screen;
use super::style::Style;

/// Asks for the user's name; `None` if the user leaves instead.
pub(crate) fn ask_name(console: &mut Console) -> io::Result<Option<Name>> {
    let (style, mut line) = (Style::from_environment(), Line::default());
    loop {
        while let Some(key) = console.key() {
            match key {
                Key::Interrupt => return Ok(None),
                Key::EndOfFile if line.is_empty() => return Ok(None),
                Key::Enter => {
                    if let Ok(name) = Name::new(line.take().as_str().trim()) {
                        return Ok(Some(name));
                    }
                    console.screen.clear_row();
                    console.screen.put(&style.error("a name is 1 to 32 of A-Z a-z 0-9 _ . -"));
                }
                _ => drop(line.edit(&key)),
            }
        }
        console.screen.clear_row();
        console.screen.put_row(&Style::question(Screen::columns()), line.split_at_cursor());
        console.screen.flush()?;
        let Ok(event) = console.events.recv() else { return Ok(None) };
        console.handle(event)?;
    }
}
