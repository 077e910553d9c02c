//! What `config check` prints: every value in force with where it came from, then everything that is wrong.

use std::fmt::Write as _;

use super::resolve::Loaded;

/// The text that `config check` prints; ends with a newline.
#[must_use]
pub fn report(loaded: &Loaded) -> String {
    let rows: Vec<[String; 3]> = loaded
        .effective
        .iter()
        .map(|row| {
            [
                row.key.to_owned(),
                row.value.clone().unwrap_or_else(|| "-".to_owned()),
                row.origin.to_string(),
            ]
        })
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let (keys, values) = (width(0), width(1));
    let mut text = String::new();
    for [key, value, origin] in &rows {
        writeln!(text, "{key:keys$}  {value:values$}  {origin}")
            .expect("writing to a string cannot fail");
    }
    if let Err(faults) = &loaded.outcome {
        writeln!(text, "\n{} wrong:\n{faults}", faults.0.len())
            .expect("writing to a string cannot fail");
    }
    text
}
