//! Tables of plain text for a terminal or a file.

pub use console::Alignment;

/// Space between two columns.
const GAP: &str = "  ";

/// Returns the head and the rows as lines, each column as wide as its widest cell. A row has as many
/// cells as the head; cells may be coloured.
pub fn table(head: &[(&str, Alignment)], rows: &[Vec<String>]) -> String {
    let names: Vec<String> = head.iter().map(|(name, _)| (*name).to_owned()).collect();
    let lines = || std::iter::once(&names).chain(rows);
    let width = |column: usize| {
        let cells = lines().filter_map(|line| line.get(column));
        cells.map(|cell| console::measure_text_width(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in lines() {
        let cells = line.iter().zip(head).zip(&widths).map(|((cell, (_, alignment)), width)| {
            console::pad_str(cell, *width, *alignment, None).into_owned()
        });
        text += cells.collect::<Vec<_>>().join(GAP).trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_look() {
        let head = [("name", Alignment::Left), ("keys", Alignment::Right), ("", Alignment::Left)];
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["日本:1", "7", ""]), row(["\u{1b}[31mé\u{1b}[0m", "12345", "yes"])];
        let red = "\u{1b}[31mé\u{1b}[0m";
        let expected = format!("name     keys\n日本:1      7\n{red}       12345  yes\n");
        assert_eq!(table(&head, &rows), expected);
    }
}
