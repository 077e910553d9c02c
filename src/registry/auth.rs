//! Access to registries: what they ask for, the credentials configured for them, and the grants
//! obtained with those.

pub(super) mod challenge;
pub(super) mod credentials;
pub(super) mod grant;
