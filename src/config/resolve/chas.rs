//! Key `api.chas_url` and section `chas`: the CHaS API server.

use super::super::*;
use super::Layers;

impl Layers {
    pub(super) fn chas(&mut self) -> Option<ChasSection> {
        let url = self.optional("api.chas_url", parse::url);
        let token = self.optional("chas.token", parse::token);
        // These files are read when they are used, since the agent starts without CHaS.
        let [token_file, ca_file, cert_file, key_file] = [
            "chas.token_file",
            "chas.ca_file",
            "chas.cert_file",
            "chas.key_file",
        ]
        .map(|name| self.optional(name, parse::path));
        if token.is_some() && token_file.is_some() {
            let message = "conflicts with CHAS_API_TOKEN, which is set too: unset one of them";
            self.error("chas.token_file", message.to_owned());
        }
        let plain_http = self.value("chas.plain_http", parse::flag);
        let set_key_file = self.optional("chas.set_key_file", parse::path);
        self.check_pair(["chas.cert_file", "chas.key_file"]);
        if url.as_ref().is_some_and(|url| url.scheme() == "http")
            && (ca_file.is_some() || cert_file.is_some())
        {
            let message = "chas.ca_file and chas.cert_file require an https URL";
            self.error("api.chas_url", message.to_owned());
        }
        Some(ChasSection {
            url: url?,
            token,
            token_file,
            ca_file,
            identity: cert_file.zip(key_file),
            plain_http,
            set_key_file,
        })
    }

    /// Notes a key that is set without the other one of its pair.
    pub(super) fn check_pair(&mut self, [one, other]: [&'static str; 2]) {
        let (lone, missing) = match [one, other].map(|name| self.values.contains_key(name)) {
            [true, false] => (one, other),
            [false, true] => (other, one),
            [true, true] | [false, false] => return,
        };
        self.error(
            lone,
            format!("requires {missing}: set both of them, or none"),
        );
    }
}
