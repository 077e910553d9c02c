//! Every answer that a test gets is held against the document that the agent serves.

use tokio::sync::OnceCell;

#[path = "../../support/openapi.rs"]
mod openapi;

pub(super) use openapi::GivenAnswer;
use openapi::OpenApi;

/// The document of the agent under test, asked for once.
static DOCUMENT: OnceCell<OpenApi> = OnceCell::const_new();

/// Holds an answer against the document. An agent that cannot be asked for it is not held to it now.
pub(super) async fn check(client: &reqwest::Client, base: &str, answer: &GivenAnswer<'_>) {
    let document = DOCUMENT.get_or_try_init(async || {
        let answer = client.get(format!("{base}/openapi.json")).send().await?;
        let document = answer.error_for_status()?.json().await?;
        Ok::<_, reqwest::Error>(OpenApi::new(document))
    });
    if let Ok(document) = document.await {
        assert_eq!(document.fault(answer), None);
    }
}
