//! Checks of the servers that the agent calls: CHaS, registries, and names.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use futures_util::future::join_all;
use state::reason::Reason;
use state::reference::ImageReference;
use tokio::time::timeout;

use super::chas::{ANSWER_MAX, CertificateTime, SeenChas, ask_chas};
use super::check::{CheckAnswer, DoctorCheck};
use crate::agent::{self, CertificateVerdict, certificate_verdict};
use crate::api::listener::file_validity;
use crate::config::Config;
use crate::registry::{RegistryClient, RegistryError, looked_up_host};

/// Most registries that are asked.
const REGISTRIES_MAX: usize = 8;
/// Repository that no registry has, to ask one of which no image is desired.
const NONE: &str = "chas-doctor/none:none";

/// Servers as one look found them.
#[derive(Clone, Debug)]
pub(super) struct SeenOutside {
    pub(super) now: SystemTime,
    /// `None`: no CHaS is configured.
    pub(super) chas: Option<SeenChas>,
    /// Certificates by what they are: a file, or a server's.
    pub(super) certificates: BTreeMap<String, CertificateTime>,
    /// Names that were looked up, with the fault where that failed.
    pub(super) names: BTreeMap<String, Option<String>>,
    /// Images that were asked for, with the fault where that failed.
    pub(super) images: Vec<(String, Option<(Reason, String)>)>,
}

impl SeenOutside {
    /// Looks. `images`: those that are desired.
    pub(super) async fn read(config: &Config, images: &[ImageReference]) -> Self {
        let mut certificates = BTreeMap::new();
        let tls = config.api.tls.as_ref().map(|tls| &tls.certificate);
        let chas = config.chas.as_ref();
        let identity = chas.and_then(|chas| Some(&chas.identity.as_ref()?.0));
        for path in tls.into_iter().chain(identity) {
            let found = of_file(path).await;
            certificates.insert(path.display().to_string(), found);
        }
        let asked = asked_of(config, images);
        let (chas, images, names) = tokio::join!(
            async {
                match chas {
                    Some(chas) => Some(ask_chas(chas).await),
                    None => None,
                }
            },
            ask_registries(config, &asked),
            look_up(names_of(config, &asked))
        );
        let chas = chas.map(|(seen, shown)| {
            if let Some(shown) = shown {
                certificates.insert(format!("the certificate of {}", seen.server), shown);
            }
            seen
        });
        Self {
            now: SystemTime::now(),
            chas,
            certificates,
            names,
            images,
        }
    }

    /// Judges.
    pub(super) fn judge(&self) -> Vec<CheckAnswer> {
        let mut answers = vec![self.dns(), self.chas()];
        answers.extend(self.certificates());
        answers.extend(self.registries());
        answers
    }

    fn chas(&self) -> CheckAnswer {
        let check = DoctorCheck::Chas;
        let Some(chas) = &self.chas else {
            return check.ok("none is configured (api.chas_url): containers come by push");
        };
        let server = &chas.server;
        match &chas.answer {
            Ok(status) if *status >= 500 => check.fail(format!("{server} answers {status}")),
            Ok(_) => check.ok(format!("{server} answers")),
            Err(fault) => check.fail(format!("{server}: {fault}")),
        }
    }

    fn certificates(&self) -> Vec<CheckAnswer> {
        let check = DoctorCheck::Certificates;
        let judged = self.certificates.iter().map(|(what, time)| {
            let time = match time {
                Ok(time) => *time,
                Err(fault) => return check.fail(format!("{what}: {fault}")),
            };
            let last = humantime::format_rfc3339_seconds(time.1);
            match certificate_verdict(time, self.now) {
                CertificateVerdict::Counts => check.ok(format!("{what} counts until {last}")),
                CertificateVerdict::EndsSoon => check.warn(format!("{what} counts until {last}")),
                CertificateVerdict::CountsNot => {
                    check.fail(format!("{what} does not count now, but until {last}"))
                }
            }
        });
        let judged: Vec<_> = judged.collect();
        match judged.is_empty() {
            true => vec![check.ok("none is configured")],
            false => judged,
        }
    }

    fn dns(&self) -> CheckAnswer {
        let check = DoctorCheck::Dns;
        let faults = self.names.iter().filter_map(|(name, fault)| {
            let fault = fault.as_ref()?;
            Some(format!("{name}: {fault}"))
        });
        let faults: Vec<_> = faults.collect();
        match (faults.is_empty(), self.names.len()) {
            (true, 0) => check.ok("no server is known by a name"),
            (true, count) => check.ok(format!("{count} resolved")),
            (false, _) => check.fail(faults.join("; ")),
        }
    }

    fn registries(&self) -> Vec<CheckAnswer> {
        let check = DoctorCheck::Registries;
        if self.images.is_empty() {
            return vec![check.ok("none is known: no image is desired")];
        }
        let judged = self.images.iter().map(|(image, fault)| match fault {
            None => check.ok(format!("{image} is there")),
            // The registry answered, and no container asks for this image.
            Some(_) if image.ends_with(NONE) && answered(fault.as_ref()) => {
                check.ok(format!("{} answers", image.trim_end_matches(NONE)))
            }
            Some((reason, message)) => {
                let told = format!("{image}: {message} ({reason})");
                check.fail(told).with_remedy(reason.remedy())
            }
        });
        judged.collect()
    }
}

/// Whether a refusal is that of a registry that works.
fn answered(fault: Option<&(Reason, String)>) -> bool {
    let refusals = [
        Reason::ImageNotFound,
        Reason::RegistryUnauthorized,
        Reason::RegistryForbidden,
    ];
    fault.is_some_and(|(reason, _)| refusals.contains(reason))
}

async fn of_file(path: &Path) -> CertificateTime {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || file_validity(&path));
    read.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// An image for each registry that is known, desired ones first.
fn asked_of(config: &Config, images: &[ImageReference]) -> Vec<ImageReference> {
    let mut asked: BTreeMap<String, ImageReference> = BTreeMap::new();
    for image in images {
        let registry = image.registry().to_owned();
        asked.entry(registry).or_insert_with(|| image.clone());
    }
    for registry in &config.registry.insecure {
        if let Ok(image) = format!("{registry}/{NONE}").parse() {
            asked.entry(registry.clone()).or_insert(image);
        }
    }
    asked.into_values().take(REGISTRIES_MAX).collect()
}

async fn ask_registries(
    config: &Config,
    asked: &[ImageReference],
) -> Vec<(String, Option<(Reason, String)>)> {
    let client = match RegistryClient::new(&agent::registries_of(config)) {
        Ok(client) => client,
        Err(error) => {
            let fault = (Reason::RegistryConfigInvalid, error.to_string());
            return vec![("every image".to_owned(), Some(fault))];
        }
    };
    let asking = asked.iter().map(|image| {
        let client = &client;
        async move {
            let wanted = image.digest().or(image.tag()).unwrap_or("latest");
            let asking = async {
                // This question counts against no limit of Docker Hub's; only the other one is told why.
                match client.resolve(image, wanted).await? {
                    Some(_) => Ok(()),
                    None => client.manifest(image, wanted).await.map(drop),
                }
            };
            let fault = match timeout(ANSWER_MAX, asking).await {
                Ok(Ok(())) => None,
                Ok(Err(RegistryError::Passing(failure) | RegistryError::Lasting(failure))) => {
                    Some((failure.reason, failure.message))
                }
                Err(_) => {
                    let told = format!("no answer within {ANSWER_MAX:?}");
                    Some((Reason::RegistryTimeout, told))
                }
            };
            (image.to_string(), fault)
        }
    });
    join_all(asking).await
}

/// Names of the servers, without those that are addresses.
fn names_of(config: &Config, images: &[ImageReference]) -> Vec<String> {
    let chas = config.chas.as_ref().and_then(|chas| chas.url.host_str());
    let access = agent::registries_of(config);
    let registries = images.iter().map(|image| {
        let registry = match image.registry() {
            "docker.io" => "registry-1.docker.io",
            registry => registry,
        };
        // Behind a proxy the node itself need not know a registry's name.
        looked_up_host(&access, registry)
    });
    let hosts = chas.map(ToOwned::to_owned).into_iter().chain(registries);
    let is_address = |host: &String| {
        let host = host.trim_matches(['[', ']']);
        host.parse::<std::net::IpAddr>().is_ok()
    };
    let mut names: Vec<_> = hosts.filter(|host| !is_address(host)).collect();
    names.sort();
    names.dedup();
    names
}

async fn look_up(names: Vec<String>) -> BTreeMap<String, Option<String>> {
    let looking = names.into_iter().map(|name| async move {
        let asking = async { tokio::net::lookup_host((name.as_str(), 0)).await.map(drop) };
        let fault = match timeout(ANSWER_MAX, asking).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {ANSWER_MAX:?}")),
        };
        (name, fault)
    });
    join_all(looking).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::tests::{Planted, check_rows};

    const DAY: Duration = Duration::from_hours(24);

    fn well() -> SeenOutside {
        let now = SystemTime::UNIX_EPOCH + 1000 * DAY;
        SeenOutside {
            now,
            chas: Some(SeenChas {
                server: "chas:443".to_owned(),
                answer: Ok(404),
                offset: Some(0),
            }),
            certificates: [("/crt".to_owned(), Ok((now - 100 * DAY, now + 100 * DAY)))].into(),
            names: [("chas".to_owned(), None)].into(),
            images: vec![("r/web:1".to_owned(), None)],
        }
    }

    fn until(seen: &mut SeenOutside, days: u32) {
        let time = (seen.now - 100 * DAY, seen.now - 10 * DAY + days * DAY);
        seen.certificates = [("/crt".to_owned(), Ok(time))].into();
    }

    #[test]
    fn each_fault_of_a_server_is_found() {
        use DoctorCheck::{Certificates, Chas, Dns, Registries};
        let rows: &[Planted<SeenOutside>] = &[
            (Chas, "FAIL", "refused", |seen| {
                seen.chas.as_mut().unwrap().answer = Err("refused".to_owned());
            }),
            (Chas, "FAIL", "answers 502", |seen| {
                seen.chas.as_mut().unwrap().answer = Ok(502);
            }),
            (Chas, "ok", "none is configured", |seen| seen.chas = None),
            (Certificates, "warn", "/crt counts until", |seen| {
                until(seen, 14);
            }),
            (Certificates, "FAIL", "does not count", |seen| {
                until(seen, 9);
            }),
            (Certificates, "FAIL", "no PEM", |seen| {
                seen.certificates = [("/crt".to_owned(), Err("no PEM".to_owned()))].into();
            }),
            (Certificates, "ok", "none is configured", |seen| {
                seen.certificates.clear();
            }),
            (Dns, "FAIL", "chas: no such name", |seen| {
                seen.names = [("chas".to_owned(), Some("no such name".to_owned()))].into();
            }),
            (Registries, "FAIL", "gone (ImageNotFound)", |seen| {
                seen.images[0].1 = Some((Reason::ImageNotFound, "gone".to_owned()));
            }),
            (Registries, "ok", "r/ answers", |seen| {
                let fault = Some((Reason::ImageNotFound, "gone".to_owned()));
                seen.images = vec![(format!("r/{NONE}"), fault)];
            }),
            (Registries, "FAIL", "RegistryUnreachable", |seen| {
                let fault = Some((Reason::RegistryUnreachable, "down".to_owned()));
                seen.images = vec![(format!("r/{NONE}"), fault)];
            }),
            (Registries, "ok", "no image is desired", |seen| {
                seen.images.clear();
            }),
        ];
        check_rows(&well(), SeenOutside::judge, rows);
    }

    #[test]
    fn each_registry_is_asked_once_and_a_desired_image_says_more_than_none() {
        let mut config = crate::doctor::tests::config(&[]);
        config.registry.insecure = vec!["r:5000".to_owned(), "s:5000".to_owned()];
        let images = ["r:5000/web:1", "r:5000/api:1"].map(|image| image.parse().unwrap());
        let asked: Vec<_> = asked_of(&config, &images)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(asked, ["r:5000/web:1".to_owned(), format!("s:5000/{NONE}")]);
        let asked = asked_of(&config, &images);
        assert_eq!(names_of(&config, &asked), ["r", "s"]);
        // A proxy looks for them itself; what is an exception is looked for here.
        config.registry.http_proxy = Some("http://proxy:3128".parse().unwrap());
        config.registry.no_proxy = "s".to_owned();
        assert_eq!(names_of(&config, &asked), ["proxy", "s"]);
    }
}
