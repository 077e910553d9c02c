//! Section `api`: where the agent's own API listens, and who may call it.

use super::super::*;
use super::Layers;

impl Layers {
    pub(super) fn api(&mut self) -> ApiSection {
        let errors_before = self.errors.len();
        let token = self.token();
        let has_token = token.is_some() || self.errors.len() > errors_before;
        let is_earlier = self.defaults() == Defaults::Earlier && has_token;
        let default = if is_earlier {
            Ipv4Addr::UNSPECIFIED
        } else {
            Ipv4Addr::LOCALHOST
        };
        let listen = self
            .computed("api.listen", default.to_string(), parse::address)
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let is_allowed = self.value("api.plain_http", parse::flag);
        let (tls, tls_fault) = self.tls();
        let has_tls = tls.is_some() || tls_fault.is_some();
        let exposure = match (listen.to_canonical().is_loopback(), is_allowed) {
            (true, _) => Exposure::ThisHost,
            (false, _) if has_tls => Exposure::Tls,
            (false, true) => Exposure::PlainHttp,
            (false, false) if is_earlier => Exposure::EarlierDefault,
            (false, false) => Exposure::Narrowed(listen),
        };
        let is_narrowed = matches!(exposure, Exposure::Narrowed(_));
        if is_narrowed {
            let message = format!(
                "{listen} is for calls from other hosts, which would send their token, and the \
                 secrets of containers, over plain HTTP: set api.cert_file and api.key_file, or \
                 listen on 127.0.0.1, behind a server that speaks TLS, or set api.plain_http to true if nobody else is on the way"
            );
            let error = self.error_of("api.listen", message);
            self.of_doors.push(error);
        }
        let port = self.value("api.port", parse::number(1..=u16::MAX));
        let address = if is_narrowed {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            listen
        };
        ApiSection {
            listen: SocketAddr::new(address, port),
            exposure,
            plain_http: is_allowed,
            tls,
            tls_fault,
            token,
            clients_file: self.value("api.clients_file", parse::path),
            hosts: self
                .optional("api.hosts", parse::host_names)
                .unwrap_or_default(),
        }
    }

    /// Files of the API's TLS, or the fault of their keys. They are read when the agent runs, and
    /// again when they change. A slip in a key takes the port alone: nobody means it to speak in the
    /// clear, and nobody means the node's containers to stay away.
    fn tls(&mut self) -> (Option<ApiTls>, Option<String>) {
        let errors_before = self.errors.len();
        let tls = self.tls_files();
        let slips = self.errors.split_off(errors_before);
        if slips.is_empty() {
            return (tls, None);
        }
        let told: Vec<_> = slips.iter().map(ToString::to_string).collect();
        self.of_doors.extend(slips);
        (None, Some(told.join("; ")))
    }

    fn tls_files(&mut self) -> Option<ApiTls> {
        let names = ["api.cert_file", "api.key_file"];
        let [certificate, key] = names.map(|name| self.optional(name, parse::path));
        let client_authorities = self.optional("api.client_ca_file", parse::path);
        self.check_pair(names);
        if client_authorities.is_some() && !self.values.contains_key("api.cert_file") {
            let message = "requires api.cert_file: without TLS nobody shows a certificate";
            self.error("api.client_ca_file", message.to_owned());
        }
        Some(ApiTls {
            certificate: certificate?,
            key: key?,
            client_authorities,
        })
    }

    fn token(&mut self) -> Option<Secret> {
        // On a node that runs containers it is an alarm: the node must not stay away.
        let is_strict = !state::store::has_begun(self.state_dir());
        let given = self.optional("api.token", parse::token);
        let from_file = self.optional("api.token_file", |text| {
            let path: &Path = &parse::path(text)?;
            if let Some(fault) = private::fault(path).filter(|_| is_strict) {
                return Err(fault);
            }
            let secret = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            parse::token(&secret).map_err(|error| format!("{}: {error}", path.display()))
        });
        if self.values.contains_key("api.token") && self.values.contains_key("api.token_file") {
            let message = "conflicts with CHAS_TOKEN, which is set too: unset one of them";
            self.error("api.token_file", message.to_owned());
        }
        given.or(from_file)
    }
}
