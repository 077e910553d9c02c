//! A node whose way to CHaS ends before it begins: no route, or a name server that does not answer.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_route_or_a_name_server_that_answers_a_node_starts_and_is_deployed_to() {
    let center = Center::new().await;
    let machine = center.machine(14);
    let bed = Testbed::on(Arc::new(Containerd::private_on(Arc::clone(&machine))));
    machine.run("ip", &["route", "del", "default"]).unwrap();
    let _silent = machine.set_silent_name_server();
    for (url, why) in [
        ("http://192.0.2.1:8080", "unreachable"),
        ("http://chas.example.test:8080", "timed out"),
    ] {
        let variables = [
            ("CHAS_API_URL", url),
            ("CHAS_RUN_DIR", "/run/chas-node-agent"),
            ("CHAS_REGISTRY_INSECURE", center.registry.address()),
        ];
        let mut agent = Agent::start_with(&bed, &variables).await;
        let shown = agent.deploy_and_wait(&center.web("web", "first")).await;
        let task = format!("{}-1", shown["id"].as_str().unwrap());
        bed.ctr(&["tasks", "kill", "--signal", "SIGKILL", &task]);
        crate::stand::eventually("it is started again", async || {
            let (_, shown) = agent.get("/containers/web").await;
            shown["status"] == "running" && shown["restart_count"] == 1
        })
        .await;
        crate::stand::eventually("it is said why CHaS is not reached", async || {
            let chas = agent.get("/health").await.1["chas"].clone();
            chas["reachable"] == false
                && chas["error"]
                    .as_str()
                    .is_some_and(|error| error.contains(why))
        })
        .await;
        // An upgrade of the agent, in the middle of that.
        agent.terminate();
        agent.start_again().await;
        agent.wait_status("web", "running", SOON).await;
        assert_eq!(agent.get("/containers/web").await.1["restart_count"], 1);
        agent.delete_and_wait("web").await;
        bed.assert_no_container_left();
    }
}
