//! A flow's parameters and the values given to a run: which names exist, of which type, and how text becomes a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::{Code, Problem};

/// Values by parameter name.
pub type Values = BTreeMap<String, Value>;

/// Largest set of values of one run, in bytes of JSON.
pub const VALUES_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterType {
    Int,
    Float,
    Str,
    Bool,
    Json,
}

impl ParameterType {
    fn noun(self) -> &'static str {
        match self {
            Self::Int => "an integer",
            Self::Float => "a number",
            Self::Str => "text",
            Self::Bool => "true or false",
            Self::Json => "JSON",
        }
    }
}

/// A value given to a run from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: ParameterType,
    #[serde(default)]
    pub required: bool,
    #[serde(default)]
    pub default: Option<Value>,
    #[serde(default)]
    pub help: String,
}

impl Parameter {
    /// Reads a value of this parameter's type; text is parsed (`"3"` for an integer, JSON text for `json`).
    ///
    /// # Errors
    /// A [`Problem`] naming the parameter, the value and the expected type.
    pub fn coerce(&self, value: Value) -> Result<Value, Problem> {
        let read = match (self.kind, value) {
            (ParameterType::Int, Value::Number(n)) if n.is_i64() || n.is_u64() => Ok(Value::Number(n)),
            (ParameterType::Int, Value::String(text)) => match text.trim().parse::<i64>() {
                Ok(n) => Ok(n.into()),
                Err(_) => Err(Value::String(text)),
            },
            (ParameterType::Float, Value::Number(n)) => n.as_f64().map_or_else(|| Err(Value::Number(n.clone())), |f| Ok(f.into())),
            (ParameterType::Float, Value::String(text)) => match text.trim().parse::<f64>() {
                Ok(f) if f.is_finite() => Ok(f.into()),
                _ => Err(Value::String(text)),
            },
            (ParameterType::Str, Value::String(text)) => Ok(Value::String(text)),
            (ParameterType::Bool, Value::Bool(flag)) => Ok(Value::Bool(flag)),
            (ParameterType::Bool, Value::String(text)) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(Value::Bool(true)),
                "false" | "0" | "no" | "off" => Ok(Value::Bool(false)),
                _ => Err(Value::String(text)),
            },
            (ParameterType::Json, Value::String(text)) => serde_json::from_str(&text).map_err(|_| Value::String(text)),
            (ParameterType::Json, other) => Ok(other),
            (ParameterType::Int | ParameterType::Float | ParameterType::Str | ParameterType::Bool, other) => Err(other),
        };
        read.map_err(|value| {
            let shown: String = value.to_string().chars().take(80).collect();
            Problem::new(Code::PARAMETER_TYPE, format!("parameter `{}` needs {}, got {shown}", self.name, self.kind.noun()))
        })
    }
}

/// Checks `given` against `parameters` and fills in the defaults. A parameter without value and default is absent.
///
/// # Errors
/// The first [`Problem`]: an unknown name, a missing required one, a wrong type, or values over [`VALUES_BYTES_MAX`].
pub fn resolve(parameters: &[Parameter], given: Values) -> Result<Values, Problem> {
    let mut values = Values::new();
    for (name, value) in given {
        let Some(parameter) = parameters.iter().find(|parameter| parameter.name == name) else {
            return Err(unknown(parameters, &name));
        };
        values.insert(name, parameter.coerce(value)?);
    }
    for parameter in parameters {
        if values.contains_key(&parameter.name) {
            continue;
        }
        match &parameter.default {
            Some(default) if !default.is_null() => {
                values.insert(parameter.name.clone(), default.clone());
            }
            _ if parameter.required => {
                return Err(Problem::new(Code::PARAMETER_UNKNOWN, format!("parameter `{}` is required", parameter.name))
                    .hint(format!("give it as --{} VALUE", parameter.name)));
            }
            _ => {}
        }
    }
    let bytes: usize = values.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    if bytes > VALUES_BYTES_MAX {
        return Err(Problem::new(Code::TOO_LARGE, format!("the parameters have {bytes} bytes; at most {VALUES_BYTES_MAX} are accepted"))
            .hint("put large data into a file or bucket and pass its address"));
    }
    Ok(values)
}

fn unknown(parameters: &[Parameter], name: &str) -> Problem {
    let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let hint = if names.is_empty() { "this flow has no parameters".into() } else { format!("it has: {}", names.join(", ")) };
    Problem::new(Code::PARAMETER_UNKNOWN, format!("the flow has no parameter `{name}`")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parameter(name: &str, kind: ParameterType, default: Option<Value>) -> Parameter {
        Parameter { name: name.into(), kind, required: default.is_none(), default, help: String::new() }
    }

    #[test]
    fn text_becomes_a_value_of_the_parameters_type() {
        let read = |kind, text: &str| parameter("p", kind, None).coerce(json!(text));
        assert_eq!(read(ParameterType::Int, "3").unwrap(), json!(3));
        assert_eq!(read(ParameterType::Float, "3").unwrap(), json!(3.0));
        assert_eq!(read(ParameterType::Bool, "False").unwrap(), json!(false));
        assert_eq!(read(ParameterType::Json, "[1]").unwrap(), json!([1]));
        assert_eq!(read(ParameterType::Int, "three").unwrap_err().message, "parameter `p` needs an integer, got \"three\"");
    }

    #[test]
    fn defaults_fill_what_was_not_given() {
        let parameters = [parameter("a", ParameterType::Int, Some(json!(1))), parameter("b", ParameterType::Int, Some(json!(2)))];
        let values = resolve(&parameters, Values::from([("b".into(), json!(5))])).unwrap();
        assert_eq!(values, Values::from([("a".into(), json!(1)), ("b".into(), json!(5))]));
    }

    #[test]
    fn unknown_and_missing_parameters_are_named() {
        let parameters = [parameter("a", ParameterType::Int, None)];
        let unknown = resolve(&parameters, Values::from([("b".into(), json!(5))])).unwrap_err();
        assert_eq!((unknown.message.as_str(), unknown.hint.as_deref()), ("the flow has no parameter `b`", Some("it has: a")));
        assert_eq!(resolve(&parameters, Values::new()).unwrap_err().message, "parameter `a` is required");
    }
}
