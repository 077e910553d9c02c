//! Conversions of a type that is stored, sent and read as its text.

/// Conversions for `#[serde(try_from = "String", into = "String")]`, from what the type has: `FromStr`, whose error says
/// what the text must be, and `Display`.
macro_rules! stored_as_text {
    ($stored:ty) => {
        impl TryFrom<String> for $stored {
            type Error = <Self as std::str::FromStr>::Err;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$stored> for String {
            fn from(value: $stored) -> Self {
                value.to_string()
            }
        }
    };
}
