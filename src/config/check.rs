//! Output of `config check`: every value in force with its origin, then every error.

use std::fmt::Write as _;

use super::resolve::LoadedConfig;

/// The output of `config check`; ends with a newline.
#[must_use]
pub fn report(loaded: &LoadedConfig) -> String {
    let rows: Vec<[String; 3]> = loaded
        .effective
        .iter()
        .map(|row| {
            let value = row.value.as_deref().unwrap_or("-");
            [row.key.to_owned(), value.to_owned(), row.origin.to_string()]
        })
        .collect();
    let (keys, values) = (width(&rows, 0), width(&rows, 1));
    let mut text = String::new();
    for [key, value, origin] in &rows {
        writeln!(text, "{key:keys$}  {value:values$}  {origin}")
            .expect("writing to a string cannot fail");
    }
    if let Err(errors) = &loaded.outcome {
        let count = errors.0.len();
        let noun = if count == 1 { "error" } else { "errors" };
        writeln!(text, "\n{count} {noun}:\n{errors}").expect("writing to a string cannot fail");
    }
    text
}

fn width(rows: &[[String; 3]], column: usize) -> usize {
    let widths = rows.iter().map(|row| row[column].chars().count());
    widths.max().unwrap_or(0)
}
