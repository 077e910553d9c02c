//! Hosts that are slow, silent, or not what they are taken for.

use tokio::time::Instant;

use super::*;

fn impatient(registry: &str, proxies: ProxySettings) -> RegistryClient {
    RegistryClient::new(&RegistryConfig {
        insecure: vec![registry.to_owned()],
        answer_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        proxies,
        ..RegistryConfig::default()
    })
    .unwrap()
}

/// Takes one connection and sends `head`, then `drip` every 20 ms, until the client goes.
fn drip(listener: TcpListener, head: &'static str, drip: &'static [u8]) {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(head_of(&mut stream));
        let mut sent = stream.write_all(head.as_bytes());
        while sent.is_ok() {
            thread::sleep(Duration::from_millis(20));
            sent = stream.write_all(drip);
        }
    });
}

fn failure(error: RegistryError) -> (Reason, String) {
    let (RegistryError::Passing(failure) | RegistryError::Lasting(failure)) = error;
    (failure.reason, failure.message)
}

#[tokio::test]
async fn a_host_that_drips_a_byte_at_a_time_is_given_up() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    for (head, piece) in [("HTTP/1.1 200 OK\r\nX-", &b"x"[..]), (HEAD, b"x")] {
        let (door, registry) = listen();
        drip(door, head, piece);
        let client = impatient(&registry, ProxySettings::default());
        let (image, began) = (format!("{registry}/web:1").parse().unwrap(), Instant::now());
        let (reason, message) = failure(client.manifest(&image, "1").await.unwrap_err());
        assert_eq!(reason, Reason::RegistryTimeout, "{message}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn a_large_body_that_is_slow_but_moves_is_read_to_its_end() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n";
    let (door, registry) = listen();
    drip(door, HEAD, &[b'x'; 1000]);
    let client = impatient(&registry, ProxySettings::default());
    let image = format!("{registry}/web:1").parse().unwrap();
    let body = client.blob(&image, "sha256:x", 0).await.unwrap();
    assert_eq!(whole(body).await.len(), 40_000);
}

#[tokio::test]
async fn an_error_s_words_are_not_waited_for_long() {
    let (door, registry) = listen();
    drip(
        door,
        "HTTP/1.1 403 No\r\nContent-Length: 16000\r\n\r\n",
        b"x",
    );
    let client = impatient(&registry, ProxySettings::default());
    let (image, began) = (format!("{registry}/web:1").parse().unwrap(), Instant::now());
    let (reason, _) = failure(client.manifest(&image, "1").await.unwrap_err());
    assert_eq!(reason, Reason::RegistryForbidden);
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn tls_behind_a_port_that_is_listed_as_insecure_is_called_so() {
    let nginx = answer(
        "400 Bad Request",
        "",
        "<html>The plain HTTP request was sent to HTTPS port</html>",
    );
    // An alert of TLS: "unexpected message".
    let alert = "\u{15}\u{3}\u{3}\0\u{2}\u{2}\n".to_owned();
    for said in [nginx, alert, String::new()] {
        let (door, registry) = listen();
        let door = serve(door, vec![said.clone()]);
        let client = impatient(&registry, ProxySettings::default());
        let image = format!("{registry}/web:1").parse().unwrap();
        let (reason, message) = failure(client.manifest(&image, "1").await.unwrap_err());
        assert!(
            message.contains("take it out of registry.insecure"),
            "{message}"
        );
        assert_eq!(
            reason == Reason::RegistryNotInsecure,
            !said.is_empty(),
            "{message}"
        );
        door.join().unwrap();
    }
}

#[tokio::test]
async fn a_proxy_that_is_away_or_refuses_is_named() {
    let (closed, away) = listen();
    drop(closed);
    let (door, refusing) = listen();
    let door = serve(door, vec![answer("403 Forbidden", "", "")]);
    for (proxy, part) in [(away, "cannot be reached"), (refusing, "refuses")] {
        let proxies = ProxySettings {
            https: Some(format!("http://u:hunter2@{proxy}").parse().unwrap()),
            ..ProxySettings::default()
        };
        let client = impatient("none", proxies);
        let image = "registry.invalid/web:1".parse().unwrap();
        let (reason, message) = failure(client.manifest(&image, "1").await.unwrap_err());
        assert_eq!(reason, Reason::RegistryProxyFailed, "{message}");
        assert!(
            message.contains(&proxy) && message.contains(part),
            "{message}"
        );
        assert!(!message.contains("hunter2"), "{message}");
    }
    let heads = door.join().unwrap();
    assert!(
        heads[0].contains("connect registry.invalid:443"),
        "{heads:?}"
    );
    assert!(heads[0].contains("proxy-authorization: basic"), "{heads:?}");
}

#[tokio::test]
async fn a_redirected_manifest_that_is_refused_names_both_hosts() {
    let ((door, registry), (store, elsewhere)) = (listen(), listen());
    let redirect = answer(
        "307 There",
        &format!("Location: http://{elsewhere}/m\r\n"),
        "",
    );
    let door = serve(door, vec![redirect]);
    let store = serve(store, vec![answer("403 No", "", "")]);
    let (client, _file) = client(&[&registry, &elsewhere], "{}");
    let image = format!("{registry}/web:1").parse().unwrap();
    let (_, message) = failure(client.manifest(&image, "1").await.unwrap_err());
    for part in [registry.as_str(), elsewhere.as_str(), "manifest 1"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("blobs"), "{message}");
    door.join().unwrap();
    store.join().unwrap();
}
