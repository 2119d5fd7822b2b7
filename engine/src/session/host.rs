//! Sessions as plugins reach them.

use orchestrator_contract::{
    HostCallError, HostFuture, HostOperation, HostService, PluginId, SessionId,
};
use serde_json::Value;

use super::{SessionError, Sessions};

impl HostService for Sessions {
    fn answer<'a>(
        &'a self,
        _: &'a PluginId,
        session: SessionId,
        operation: HostOperation,
    ) -> HostFuture<'a> {
        Box::pin(async move {
            let answer = match operation {
                HostOperation::SessionGet { key } => {
                    self.get(session, &key).await.map(Option::unwrap_or_default)
                }
                HostOperation::SessionSet { key, value } => {
                    self.set(session, &key, &value).await.map(|()| Value::Null)
                }
                HostOperation::SessionDelete { key } => {
                    self.delete(session, &key).await.map(Value::from)
                }
                HostOperation::SessionKeys => self.keys(session).await.map(Value::from),
                _ => return Err(HostCallError::Unsupported),
            };
            answer.map_err(|error| match error {
                SessionError::Journal(error) => HostCallError::Failed {
                    message: error.to_string(),
                },
                refusal => HostCallError::Refused {
                    message: refusal.to_string(),
                },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::fixture::*;

    #[tokio::test]
    async fn plugins_reach_the_session_of_their_call_through_the_host() {
        let (_fixture, sessions) = sessions().await;
        let host: &dyn HostService = &sessions;
        let plugin = PluginId::new("planner");
        let key = || "language".to_owned();
        let ask = async |operation| host.answer(&plugin, session(1), operation).await;
        let value = json!("rust");
        assert_eq!(
            ask(HostOperation::SessionGet { key: key() }).await,
            Ok(Value::Null)
        );
        let set = HostOperation::SessionSet {
            key: key(),
            value: value.clone(),
        };
        assert_eq!(ask(set).await, Ok(Value::Null));
        assert_eq!(
            ask(HostOperation::SessionGet { key: key() }).await,
            Ok(value)
        );
        assert_eq!(
            ask(HostOperation::SessionKeys).await,
            Ok(json!(["language"]))
        );
        assert_eq!(
            ask(HostOperation::SessionDelete { key: key() }).await,
            Ok(json!(true))
        );
        let long = HostOperation::SessionSet {
            key: "k".repeat(257),
            value: Value::Null,
        };
        assert!(matches!(
            ask(long).await,
            Err(HostCallError::Refused { .. })
        ));
        sessions.journal.close().await;
        let late = ask(HostOperation::SessionSet {
            key: key(),
            value: Value::Null,
        })
        .await;
        assert!(matches!(late, Err(HostCallError::Failed { .. })));
    }
}
