//! Text that is shown to people.

pub(crate) mod figures;
pub(crate) mod table;

/// Least likeness of two names, of 1, at which one is suggested for the other. `clap` has this figure.
const MIN_LIKENESS: f64 = 0.7;

/// Returns which of these names is most like another, if one is like it at all.
pub(crate) fn nearest<'a>(name: &str, among: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = among.map(|other| (strsim::jaro(name, other), other));
    let near = near.filter(|(likeness, _)| *likeness > MIN_LIKENESS);
    near.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, name)| name)
}

/// Returns whether a character is invisible or changes the look of the text around it. The joiners of
/// scripts and emoji are not counted.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2800}' | '\u{3164}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
