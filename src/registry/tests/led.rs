//! Hosts that a registry leads to: what they get, and what of them is told.

use super::*;

/// Name that the machine looks up as its own.
const OWN_NAME: &str = "localhost";

fn failure(error: RegistryError) -> (Reason, String) {
    let (RegistryError::Passing(failure) | RegistryError::Lasting(failure)) = error;
    (failure.reason, failure.message)
}

async fn refusal(client: &RegistryClient, registry: &str) -> (Reason, String) {
    let image: ImageReference = format!("{registry}/web:1").parse().unwrap();
    failure(client.manifest(&image, "1").await.unwrap_err())
}

#[tokio::test]
async fn the_words_of_a_host_that_a_registry_leads_to_are_not_repeated() {
    const PAGE: &str = "db_password=hunter2";
    for (status, location) in [
        ("400 No", "Location"),
        ("500 No", "Location"),
        ("403 No", "Location"),
        ("404 No", "Location"),
        ("418 No", "WWW-Authenticate"),
        ("503 No", "WWW-Authenticate"),
    ] {
        let ((door, registry), (page, elsewhere)) = (listen(), listen());
        let lead = match location {
            "Location" => {
                let header = format!("Location: http://{elsewhere}/admin\r\n");
                answer("302 There", &header, "")
            }
            _ => {
                let realm = format!("WWW-Authenticate: Bearer realm=\"http://{elsewhere}/x\"\r\n");
                answer("401 No", &realm, "")
            }
        };
        let door = serve(door, vec![lead]);
        let page = serve(page, vec![answer(status, "", PAGE)]);
        let (client, _file) = client(&[&registry, &elsewhere], "{}");
        let (_, message) = refusal(&client, &registry).await;
        assert!(!message.contains("hunter2"), "{message}");
        assert!(message.contains(&elsewhere), "{message}");
        door.join().unwrap();
        page.join().unwrap();
    }
}

#[tokio::test]
async fn doors_where_a_registry_leads_look_alike_open_or_closed() {
    let mut told = Vec::new();
    for kind in ["closed", "mute", "plain"] {
        let ((door, registry), (other, elsewhere)) = (listen(), listen());
        let scheme = if kind == "plain" { "https" } else { "http" };
        let header = format!("Location: {scheme}://{elsewhere}/x\r\n");
        let door = serve(door, vec![answer("302 There", &header, "")]);
        let other = thread::spawn(move || match kind {
            "closed" => drop(other),
            "mute" => drop(other.accept()),
            _ => {
                let (mut stream, _) = other.accept().unwrap();
                drop(stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"));
            }
        });
        let (client, _file) = client(&[&registry, &elsewhere], "{}");
        let (reason, message) = refusal(&client, &registry).await;
        assert!(message.contains("the agent's log"), "{kind}: {message}");
        told.push((
            reason,
            message.replace(&elsewhere, "").replace(&registry, ""),
        ));
        door.join().unwrap();
        other.join().unwrap();
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[tokio::test]
async fn a_password_goes_to_no_other_domain_and_the_message_names_the_key() {
    let (door, registry) = listen();
    let realm = "WWW-Authenticate: Bearer realm=\"https://tokens.invalid/x\"\r\n";
    let door = serve(door, vec![answer("401 No", realm, "")]);
    let auths = format!(r#"{{"auths": {{"{registry}": {{"auth": "dTpw"}}}}}}"#);
    let (client, _file) = client(&[&registry], &auths);
    let (reason, message) = refusal(&client, &registry).await;
    assert_eq!(reason, Reason::RegistryRedirectRefused);
    assert!(
        message.contains("list tokens.invalid under registry.token_hosts"),
        "{message}"
    );
    door.join().unwrap();
}

#[tokio::test]
async fn a_name_of_this_node_is_led_to_by_a_registry_of_this_node_alone() {
    let (door, registry) = listen();
    let port = registry.rsplit_once(':').unwrap().1.to_owned();
    let header = format!("Location: http://{OWN_NAME}:{port}/x\r\n");
    let door = serve(
        door,
        vec![answer("302 There", &header, ""), answer("404 None", "", "")],
    );
    let (client, _file) = client(&[&registry, &format!("{OWN_NAME}:{port}")], "{}");
    let (reason, message) = refusal(&client, &registry).await;
    assert_eq!(reason, Reason::ImageNotFound, "{message}");
    door.join().unwrap();

    // The same step for a registry elsewhere, which is all that differs.
    let endpoint = Endpoint::own("192.0.2.7:5000", true).unwrap();
    let to = format!("http://{OWN_NAME}:{port}/x").parse().unwrap();
    let errand = Errand::new(&endpoint, Method::GET, to);
    let (reason, message) = failure(client.http.send(&errand).await.unwrap_err());
    assert_eq!(reason, Reason::RegistryRedirectRefused);
    assert!(message.contains("address of this node"), "{message}");
}

#[tokio::test]
async fn what_came_back_from_elsewhere_gets_no_secret() {
    let ((door, registry), (other, elsewhere)) = (listen(), listen());
    let to = |url: String| answer("302 There", &format!("Location: http://{url}\r\n"), "");
    let challenge = answer("401 No", "WWW-Authenticate: Basic realm=x\r\n", "");
    let answers = vec![
        challenge,
        to(format!("{elsewhere}/x")),
        answer("404 None", "", ""),
    ];
    let door = serve(door, answers);
    let other = serve(other, vec![to(format!("{registry}/v2/other/manifests/1"))]);
    let auths = format!(r#"{{"auths": {{"{registry}": {{"auth": "dTpw"}}}}}}"#);
    let (client, _file) = client(&[&registry, &elsewhere], &auths);
    refusal(&client, &registry).await;
    let heads = door.join().unwrap();
    let shown = heads.iter().map(|head| head.contains("authorization:"));
    assert_eq!(shown.collect::<Vec<_>>(), [false, true, false]);
    other.join().unwrap();
}
