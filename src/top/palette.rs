//! Colours, which only underline what words say.

use ratatui::style::{Color, Modifier, Style};

/// The styles of what is shown: with colours, or, as `NO_COLOR` asks for, without.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    /// Whether there are colours.
    pub is_coloured: bool,
}

impl Palette {
    fn coloured(self, colour: Color) -> Style {
        if self.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }

    /// Of the names of columns.
    pub fn head(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Of what says how it stands as a whole, on this level.
    pub fn verdict(self, level: &str) -> Style {
        let colour = match level {
            "ok" => Color::Green,
            "degraded" => Color::Yellow,
            _ => Color::Red,
        };
        self.coloured(colour).add_modifier(Modifier::BOLD)
    }

    /// Of warnings.
    pub fn warning(self) -> Style {
        self.coloured(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Of what matters less.
    pub fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Of a backend's state.
    pub fn state(self, state: &str) -> Style {
        match state {
            "up" => self.coloured(Color::Green),
            "down" => self.coloured(Color::Red).add_modifier(Modifier::BOLD),
            _ => self.coloured(Color::Yellow).add_modifier(Modifier::BOLD),
        }
    }
}
