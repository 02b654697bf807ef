/// Escapes text of clients or backends so that it neither begins another line nor moves the cursor.
pub fn escaped(text: &str) -> String {
    let is_harmless = |c: char| matches!(c, ' ' | '\'' | '"' | '\\');
    let escape =
        |c: char| if is_harmless(c) { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(escape).collect()
}
