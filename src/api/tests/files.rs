//! Volumes of the fake agent: one, `data`, with an archive of its own.

use std::io::Read as _;
use std::sync::Mutex;

use state::access::NameScope;
use state::id::ContainerId;
use state::spec::VolumeName;

use super::Fake;
use crate::api::{NodeFiles, Refusal};
use crate::archive::{
    ArchiveDownload, ArchiveFault, ArchiveRefusal, ArchiveRoom, ArchiveUpload, ArchivedAmount,
};
use crate::view::VolumeView;

/// Volumes of the fake agent.
#[derive(Debug)]
pub(crate) struct FakeFiles {
    room: ArchiveRoom,
    /// Archives that were taken, as they came.
    taken: std::sync::Arc<Mutex<Vec<Vec<u8>>>>,
    /// Whether archives break off.
    pub(crate) breaks: std::sync::atomic::AtomicBool,
}

impl Default for FakeFiles {
    fn default() -> Self {
        Self {
            room: ArchiveRoom::of_nobody(),
            taken: std::sync::Arc::default(),
            breaks: std::sync::atomic::AtomicBool::default(),
        }
    }
}

fn data() -> VolumeView {
    VolumeView {
        name: "data".parse().unwrap(),
        used_by: vec!["web".parse().unwrap(), "db".parse().unwrap()],
        is_use_unknown: false,
        unused_since: None,
        made: None,
        image: None,
        is_missing: false,
        is_mount: false,
        limit_bytes: None,
        content: None,
    }
}

fn none(name: &VolumeName) -> Refusal {
    Refusal::NotFound(format!("there is no volume {name}"))
}

impl NodeFiles for Fake {
    async fn volumes(&self, scope: &NameScope) -> Result<Vec<VolumeView>, Refusal> {
        let volumes = [data()].into_iter();
        Ok(volumes
            .filter(|view| scope.has_volume(&view.name))
            .collect())
    }

    async fn volume(&self, name: VolumeName) -> Result<VolumeView, Refusal> {
        Some(data())
            .filter(|view| view.name == name)
            .ok_or_else(|| none(&name))
    }

    async fn remove_volume(&self, name: VolumeName, _scope: &NameScope) -> Result<(), Refusal> {
        self.volume(name).await?;
        self.refused()
    }

    async fn read_volume(
        &self,
        name: VolumeName,
        is_zstd: bool,
    ) -> Result<ArchiveDownload, ArchiveRefusal> {
        self.volume(name).await?;
        let place = self
            .files
            .room
            .place(("data".to_owned(), None), is_zstd, String::new())?;
        let breaks = self.files.breaks.load(std::sync::atomic::Ordering::Relaxed);
        Ok(place.send(move |out| {
            out.write_all(&[b'x'; 1 << 20])?;
            if breaks {
                return Err(std::io::Error::other("broken").into());
            }
            Ok(ArchivedAmount::default())
        }))
    }

    async fn read_container(
        &self,
        _id: ContainerId,
        _path: String,
        is_zstd: bool,
    ) -> Result<ArchiveDownload, ArchiveRefusal> {
        self.read_volume("data".parse().unwrap(), is_zstd).await
    }

    async fn write_container(
        &self,
        _id: ContainerId,
        _path: String,
        is_zstd: bool,
    ) -> Result<ArchiveUpload, ArchiveRefusal> {
        self.write_volume("data".parse().unwrap(), is_zstd).await
    }

    async fn write_volume(
        &self,
        name: VolumeName,
        is_zstd: bool,
    ) -> Result<ArchiveUpload, ArchiveRefusal> {
        let place = self
            .files
            .room
            .place((name.to_string(), None), is_zstd, String::new())?;
        let taken = std::sync::Arc::clone(&self.files.taken);
        Ok(place.take(move |archive| {
            let mut all = Vec::new();
            archive
                .take(100 << 20)
                .read_to_end(&mut all)
                .map_err(|source| ArchiveFault::Cut {
                    entry: None,
                    source,
                })?;
            if all.starts_with(b"wrong") {
                return Err(ArchiveFault::Malformed {
                    entry: None,
                    fault: "wrong".to_owned(),
                });
            }
            let bytes = all.len() as u64;
            taken.lock().unwrap().push(all);
            Ok(ArchivedAmount {
                bytes,
                ..ArchivedAmount::default()
            })
        }))
    }
}

mod answers {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use axum::http::{HeaderMap, header};
    use serde_json::json;
    use tower::ServiceExt as _;

    use super::super::{ROOT, ask, get, of, problem, rules, send};
    use super::*;
    use crate::api::archives::takes_zstd;
    use crate::api::router;

    fn request(
        method: &str,
        headers: &[(header::HeaderName, &str)],
        body: Vec<u8>,
    ) -> axum::http::Request<axum::body::Body> {
        let path = "/volumes/data/archive";
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        request.body(body.into()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_archive_goes_out_compressed_or_not_and_comes_in_so() {
        let node = Fake::new(Vec::new());
        let plain = get(&node, "/volumes/data/archive").await;
        assert_eq!((plain.status, plain.text.len()), (200, 1 << 20));
        for (accepted, is_zstd) in [("gzip, zstd", true), ("zstd;q=0", false), ("*", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
            assert_eq!(takes_zstd(&headers), is_zstd, "{accepted}");
        }
        node.files.breaks.store(true, Ordering::Relaxed);
        let broken = of(ROOT, request("GET", &[], Vec::new()));
        let broken = router(Arc::clone(&node), rules(None), None).oneshot(broken);
        let body = broken.await.unwrap().into_body();
        assert!(axum::body::to_bytes(body, usize::MAX).await.is_err());
        for (headers, body, status) in [
            (vec![], b"archive".to_vec(), 200),
            (
                vec![(header::CONTENT_ENCODING, "zstd")],
                b"archive".to_vec(),
                400,
            ),
            (
                vec![(header::CONTENT_ENCODING, "br")],
                b"archive".to_vec(),
                415,
            ),
            (
                vec![(header::CONTENT_TYPE, "text/html")],
                b"archive".to_vec(),
                415,
            ),
            (vec![], b"wrong".to_vec(), 400),
        ] {
            let answer = send(&node, None, request("PUT", &headers, body)).await;
            assert_eq!(answer.status, status, "{headers:?}");
        }
        let taken = node.files.taken.lock().unwrap().clone();
        assert_eq!(taken, [b"archive"]);
    }

    #[tokio::test]
    async fn volumes_are_told_of_and_a_refusal_is_a_problem() {
        let node = Fake::new(Vec::new());
        let shown = get(&node, "/volumes").await.json();
        assert_eq!(shown["volumes"][0]["used_by"], json!(["web", "db"]));
        assert_eq!(get(&node, "/volumes/data").await.status, 200);
        let archive = ask(&node, "HEAD", "/volumes/data/archive", "").await;
        assert_eq!(archive.status, 400);
        for path in ["/volumes/other", "/volumes/NONE", "/volumes/other/archive"] {
            problem(&get(&node, path).await, 404, "there is no volume");
        }
        *node.refusal.lock().unwrap() = Some(Refusal::Conflict("used".to_owned()));
        problem(
            &ask(&node, "DELETE", "/volumes/data", "").await,
            409,
            "used",
        );
    }
}
