//! TCP probe: a connection, which is closed at once.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

/// Connects. Nothing is sent.
pub(super) async fn ask(address: SocketAddr) -> Result<String, String> {
    let connection = connect(address).await?;
    // No connection of a probe stays behind in the kernel's tables.
    let _closed_in_any_case = connection.set_zero_linger();
    Ok(format!("port {} accepts connections", address.port()))
}

/// Connection to a port of a container.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connection = TcpStream::connect(address).await;
    connection.map_err(|error| fault(address, &error))
}

fn fault(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return format!("port {port} refuses connections");
    }
    format!("port {port} cannot be connected to: {error}")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_that_listens_is_a_success_and_another_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(ask(address).await.is_ok());
        drop(listener);
        let fault = ask(address).await.unwrap_err();
        assert!(fault.contains("refuses"), "{fault}");
    }
}
