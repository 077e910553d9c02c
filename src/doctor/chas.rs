//! CHaS as a look finds it: whether it answers, by what clock, and with what certificate.

use std::time::{Duration, SystemTime};

use reqwest::tls::TlsInfo;
use tokio::time::timeout;

use crate::api::listener::validity_of;
use crate::cause;
use crate::chas::credentials::Transport;
use crate::config::ChasSection;

/// Time for one server.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(6);

/// Time of a certificate, or the fault for which it cannot be told.
pub(super) type CertificateTime = Result<(SystemTime, SystemTime), String>;

/// CHaS as it answered.
#[derive(Clone, Debug)]
pub(super) struct SeenChas {
    /// Host and port.
    pub(super) server: String,
    /// Status of the answer, or the fault for which there is none.
    pub(super) answer: Result<u16, String>,
    /// Seconds by which its clock is another.
    pub(super) offset: Option<u64>,
}

/// Asks CHaS for nothing, with no token: any answer will do.
pub(super) async fn ask_chas(chas: &ChasSection) -> (SeenChas, Option<CertificateTime>) {
    let (host, port) = (chas.url.host_str(), chas.url.port_or_known_default());
    let server = format!("{}:{}", host.unwrap_or_default(), port.unwrap_or_default());
    let mut seen = SeenChas {
        server,
        answer: Err(format!("no answer within {ANSWER_MAX:?}")),
        offset: None,
    };
    let transport = Transport::new(chas);
    let built = tokio::task::spawn_blocking(move || transport.looking()).await;
    let client = match built {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => {
            seen.answer = Err(error.to_string());
            return (seen, None);
        }
        Err(error) => {
            seen.answer = Err(error.to_string());
            return (seen, None);
        }
    };
    let mut url = chas.url.clone();
    let _no_password = url.set_username("").and_then(|()| url.set_password(None));
    match timeout(ANSWER_MAX, client.get(url).send()).await {
        Err(_) => (seen, None),
        Ok(Err(error)) => {
            seen.answer = Err(cause::root(&error.without_url()).to_string());
            (seen, None)
        }
        Ok(Ok(response)) => {
            let date = response.headers().get("date");
            let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
            seen.offset = date.map(|theirs| {
                let now = SystemTime::now();
                let ahead = theirs.duration_since(now);
                ahead.unwrap_or_else(|behind| behind.duration()).as_secs()
            });
            let shown = response.extensions().get::<TlsInfo>();
            let shown = shown.and_then(|shown| Some(validity_of(shown.peer_certificate()?)));
            seen.answer = Ok(response.status().as_u16());
            (seen, shown)
        }
    }
}
