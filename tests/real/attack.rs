//! What hostile callers, registries, images and control planes try, each with its refusal or its harmless outcome.

mod answers;
mod beyond;
mod images;
mod requests;
