//! A node whose containers have IPv6 beside IPv4: what its API says, who reaches whom, and what comes back.

use std::net::Ipv6Addr;

use super::*;

const SUBNET: &str = "fd12:3456:789a::/64";
/// The addresses of this computer and of the machine, in a network between them.
const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 1);
const NODE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0xe);

/// Gives the machine its address, as its own configuration would after each boot.
fn configure(machine: &Machine) {
    let address = format!("{NODE}/64");
    machine
        .run("ip", &["address", "add", &address, "dev", "eth0", "nodad"])
        .unwrap();
}

/// The answer of a web server at the machine's IPv6 address.
fn page(port: u64) -> String {
    page_of(port, "/")
}

fn page_of(port: u64, path: &str) -> String {
    let port = u16::try_from(port).unwrap();
    let ask = || {
        let address = (NODE, port).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        std::io::Result::Ok(text)
    };
    ask().unwrap_or_else(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_have_ipv6_where_it_is_configured_and_keep_it_over_kills_and_power_cuts() {
    let center = Center::new().await;
    Image::busybox().push(&center.registry, "box:1").await;
    let outside = format!("{OUTSIDE}/64");
    run(
        "ip",
        [
            "address",
            "add",
            &outside,
            "dev",
            &center.bed.bridge,
            "nodad",
        ],
    )
    .unwrap();
    let machine = center.machine(14);
    let bed = Testbed::on(Arc::new(Containerd::private_on(Arc::clone(&machine))));
    configure(&machine);
    let usual = [
        ("CHAS_RUN_DIR", "/run/chas-node-agent"),
        ("CHAS_REGISTRY_INSECURE", center.registry.address()),
        // The firewall is not who keeps containers from the API here.
        ("CHAS_LISTEN", "::"),
        ("CHAS_PLAIN_HTTP", "true"),
        ("CHAS_HOST_ACCESS", "open"),
    ];
    let mut agent = Agent::start_with(&bed, &usual).await;

    // Without the key nothing of it is there, and what needs it is refused by its field.
    let mut body = center.web("six", "x");
    body["exposed_ports"] = json!([{"container": 80}, {"container": 80, "host_ip": "::"}]);
    let (status, refused) = agent.deploy(&body).await;
    assert_eq!(status, 422, "{refused}");
    assert_eq!(
        refused["errors"][0]["field"], "exposed_ports[1].host_ip",
        "{refused}"
    );
    let said = refused["errors"][0]["message"].as_str().unwrap();
    assert!(said.contains("network.subnet6"), "{said}");
    let web = agent.deploy_and_wait(&center.web("web", "x")).await;
    assert_eq!(web.get("ip6"), None);
    let port = web["ports"][0]["host"].as_u64().unwrap();
    assert!(page(port).contains("refused"), "{}", page(port));

    // The key is set: what runs goes on, and has IPv6 from its next start on.
    agent.terminate();
    agent.set("CHAS_SUBNET6", SUBNET);
    agent.start_again().await;
    agent.wait_status("web", "running", SOON).await;
    let (_, shown) = agent.get("/containers/web").await;
    assert_eq!(shown.get("ip6"), None);
    // Another process reads both clocks anew.
    let started = |shown: &Value| humantime::parse_rfc3339(shown["started"].as_str().unwrap());
    let (before, now) = (started(&web).unwrap(), started(&shown).unwrap());
    let apart = now
        .duration_since(before)
        .unwrap_or_else(|ahead| ahead.duration());
    assert!(apart < Duration::from_millis(20), "{before:?} {now:?}");
    let (status, _) = agent.ask("POST", "/containers/web/restart", None).await;
    assert!(status < 300, "{status}");
    crate::stand::eventually("it has its address", async || {
        let (_, shown) = agent.get("/containers/web").await;
        shown["ip6"]
            .as_str()
            .is_some_and(|ip| ip.starts_with("fd12:3456:789a::"))
    })
    .await;
    let (_, shown) = agent.get("/containers/web").await;
    let own = shown["ip6"].as_str().unwrap().to_owned();
    assert!(page(port).contains("hello"), "{}", page(port));
    let (status, _) = agent.deploy(&body).await;
    assert_eq!(status, 202);
    let six = agent.wait_status("six", "running", SOON).await;
    let at_all = six["ports"]
        .as_array()
        .unwrap()
        .iter()
        .find(|port| port["host_ip"] == "::");
    assert!(page(at_all.unwrap()["host"].as_u64().unwrap()).contains("hello"));

    // By both addresses, which its neighbours know; and nobody on the bridge reaches the API.
    let api = &agent.environment()["NODE_PORT"];
    let image = format!("{}/box:1", center.registry.address());
    let script = "grep web /etc/hosts; echo told; sleep 1000";
    let prober = json!({"name": "prober", "image": image, "command": ["sh", "-c", script], "stop": {"timeout": "0s"}});
    let prober = agent.deploy_and_wait(&prober).await;
    crate::stand::eventually("it has told", async || {
        agent.logs("prober", "").await.contains("told")
    })
    .await;
    let told = agent.logs("prober", "").await;
    assert!(told.contains(&format!("{own}\tweb")), "{told}");
    let netns = format!(
        "--net=/run/chas-node-agent/netns/{}-1",
        prober["id"].as_str().unwrap()
    );
    let asked = |address: &str, port: &str, path: &str| {
        let script = format!(
            "trap '' PIPE; exec 2>/dev/null; exec 3<>/dev/tcp/{address}/{port} && printf 'GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && timeout 5 cat <&3 || true"
        );
        machine
            .run("nsenter", &[&netns, "bash", "-c", &script])
            .unwrap()
    };
    for address in [&own, shown["ip"].as_str().unwrap()] {
        assert!(asked(address, "80", "/").contains("hello"), "{address}");
    }
    for address in ["fd12:3456:789a::1".to_owned(), NODE.to_string()] {
        assert_eq!(asked(&address, api, "/livez"), "", "{address}");
    }
    let outside = page_of(api.parse().unwrap(), "/livez");
    assert!(
        outside.contains(" 200 "),
        "the same from outside: {outside}"
    );

    // A kill, and a power cut.
    agent.kill_9();
    assert!(page(port).contains("hello"), "the kernel needs no agent");
    agent.start_again().await;
    agent.wait_status("web", "running", SOON).await;
    assert_eq!(agent.get("/containers/web").await.1["ip6"], own);
    machine.power_off();
    agent.kill_9();
    bed.containerd.kill_9();
    machine.boot();
    configure(&machine);
    bed.containerd.start();
    agent.start_again().await;
    agent.wait_status("web", "running", SOON).await;
    crate::stand::eventually("it answers again", async || page(port).contains("hello")).await;
    assert_eq!(agent.get("/containers/web").await.1["ip6"], own);
    for name in ["web", "six", "prober"] {
        agent.delete_and_wait(name).await;
    }
    bed.assert_no_container_left();
}
