// Uses the TypeScript clients of both documents: each call and member that it names is checked by the compiler.

import createClient from "openapi-fetch";
import type { paths, components } from "./agent.js";
import type { components as chas } from "./chas.js";

declare const process: { argv: string[] };
const [address, token, image] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({ baseUrl: address, headers: { Authorization: `Bearer ${token}` } });

function check(holds: boolean, what: unknown): asserts holds {
  if (!holds) throw new Error(JSON.stringify(what));
}

const body: components["schemas"]["DeployBody"] = {
  name: "from-typescript",
  image,
  restart: { policy: "on-failure", max_retries: 3 },
  health: { tcp: { port: 80 }, interval: "1s" },
};
// The set of a node holds the same bodies.
const set: chas["schemas"]["Set"] = { containers: [body] };
check(set.containers.length === 1, set);

const made = await client.POST("/containers/deploy", { params: { query: { wait: "ready", timeout: "60s" } }, body });
check(made.data !== undefined && "spec" in made.data && made.data.status === "running", made.error);
const listed = await client.GET("/containers", { params: { query: { status: ["running", "unhealthy"] } } });
check(listed.data?.containers.some((container) => container.name === body.name) === true, listed);
const path = { id: body.name };
const why = await client.GET("/containers/{id}/explain", { params: { path } });
check(why.data?.observed.health?.status === "ready", why);
const gone = await client.DELETE("/containers/{id}", { params: { path, query: { wait: "removed" } } });
check(gone.data?.status === "removed", gone.error);
const missing = await client.GET("/containers/{id}", { params: { path } });
check(missing.error?.code === "NotFound", missing);
console.log("TypeScript: deployed, listed, explained and removed a container");
