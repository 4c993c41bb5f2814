# A flow in R's manner: `flow("x") |> step("a", function(self) {...}) |> foreach("b", over = "items", function(self) {...}) |>
# join("c", function(self, inputs) {...})`. The verbs only collect; definition.R checks and writes the graph.

#' Begins a flow. `doc` says what it is for; `timeout` bounds a run ("2h", or seconds).
flow <- function(name, doc = "", timeout = NULL) {
  check_name(name, "flow")
  made <- list(name = name, doc = doc, timeout = timeout, parameters = list(), steps = list(), triggers = list(), schedules = list())
  structure(made, class = "causey_flow")
}

#' Adds a parameter: `self$<name>` in every step, `--<name> VALUE` on the command line. Its type is that of the default.
parameter <- function(flow, name, default = NULL, type = NULL, help = "", required = is.null(default)) {
  check_flow(flow)
  if (is.null(type)) type <- parameter_type(default)
  known <- c("int", "float", "str", "bool", "json")
  if (!type %in% known) {
    problem(sprintf("parameter '%s' has type '%s'", name, type), hint = paste("use one of", paste(known, collapse = ", ")))
  }
  flow$parameters[[length(flow$parameters) + 1L]] <- list(name = name, type = type, required = required, default = default, help = help)
  flow
}

#' Adds a step, which comes after the one before it, or after those that `after` names. Several steps after the same one are branches.
#' `code` is a function of `self`, or code in another language: `python("file.py")`, `executable("file.sh")`.
step <- function(flow, name, code, after = NULL, switch = NULL, retry = NULL, timeout = NULL, resources = NULL, host = NULL, doc = "") {
  add_step(flow, "step", name, code, after, switch = switch, retry = retry, timeout = timeout, resources = resources, host = host, doc = doc)
}

#' Adds a step that runs once for every item of `over`, which the step before it has left; the item is `self$input`.
foreach <- function(flow, name, code, over, after = NULL, switch = NULL, retry = NULL, timeout = NULL, resources = NULL, host = NULL,
                    doc = "") {
  # Both orders read well: foreach("work", over = "items", function(self) …) and foreach("work", function(self) …, over = "items").
  if (!is.character(over) || length(over) != 1L) problem(sprintf("foreach step '%s': `over` must be the name of an artifact", name), step = name)
  add_step(flow, "foreach", name, code, after, over = over, switch = switch, retry = retry, timeout = timeout, resources = resources,
    host = host, doc = doc)
}

#' Adds a step that waits for all branches, or all items of a foreach: a function of `self` and `inputs`.
join <- function(flow, name, code, after = NULL, switch = NULL, retry = NULL, timeout = NULL, resources = NULL, host = NULL, doc = "") {
  add_step(flow, "join", name, code, after, switch = switch, retry = retry, timeout = timeout, resources = resources, host = host, doc = doc)
}

#' Code of a step in Python: a file that holds a function with the step's name.
python <- function(file) structure(list(language = "python", file = file), class = "causey_code")

#' Code of a step that is a program or a script.
executable <- function(file) structure(list(language = "exec", file = file), class = "causey_code")

#' The flow starts when this event comes. `parameters` says which parameter takes which field of the event's data.
trigger <- function(flow, event, parameters = NULL) {
  check_flow(flow)
  entry <- list(name = event)
  if (!is.null(parameters)) entry$parameters <- as.list(parameters)
  flow$triggers[[length(flow$triggers) + 1L]] <- list(events = list(entry))
  flow
}

#' The flow starts by the clock: five fields of cron in a named time zone.
schedule <- function(flow, cron, timezone = "UTC") {
  check_flow(flow)
  flow$schedules[[length(flow$schedules) + 1L]] <- list(cron = cron, timezone = timezone)
  flow
}

#' Last in a flow file: makes `Rscript flow.R run` work.
causey_main <- function(flow) {
  check_flow(flow)
  if (isTRUE(loading$active)) {
    loading$main <- flow
    return(invisible(flow))
  }
  if (interactive()) return(flow)
  launch()
}

print.causey_flow <- function(x, ...) {
  cat("<flow ", x$name, "> ", paste(vapply(x$steps, function(each) each$name, ""), collapse = " > "), "\n", sep = "")
  invisible(x)
}

add_step <- function(flow, kind, name, code, after, ...) {
  check_flow(flow)
  check_name(name, "step")
  line <- 0L
  if (is.function(code)) {
    srcref <- attr(code, "srcref")
    if (!is.null(srcref)) line <- as.integer(srcref[1])
    wanted <- if (kind == "join") 2L else 1L
    if (length(formals(args(code))) != wanted) {
      has <- if (kind == "join") "function(self, inputs)" else "function(self)"
      problem(sprintf("%s '%s' takes %d arguments", kind, name, length(formals(args(code)))), line, name, paste("write it as", has))
    }
  } else if (!inherits(code, "causey_code")) {
    problem(sprintf("%s '%s' has no function", kind, name), line, name, "as in step(\"a\", function(self) { self$x <- 1 })")
  }
  names <- vapply(flow$steps, function(each) each$name, "")
  if (name %in% names) problem(sprintf("step '%s' is defined twice", name), line, name)
  if (is.null(after) && length(names)) after <- names[length(names)]
  for (each in setdiff(after, names)) {
    problem(sprintf("step '%s' comes after '%s', which is not a step before it", name, each), line, name, did_you_mean(each, names))
  }
  flow$steps[[length(flow$steps) + 1L]] <- list(name = name, kind = kind, code = code, after = after, line = line, ...)
  flow
}

parameter_type <- function(default) {
  if (is.null(default)) return("str")
  if (length(default) != 1L || is.list(default)) return("json")
  if (is.logical(default)) return("bool")
  if (is.character(default)) return("str")
  if (is.integer(default)) return("int")
  if (is.numeric(default)) return("float")
  "json"
}

check_flow <- function(flow) {
  if (!inherits(flow, "causey_flow")) problem("this verb continues a flow", hint = "begin with flow(\"name\") |> …")
}

check_name <- function(name, what) {
  if (!is.character(name) || length(name) != 1L || !grepl("^[A-Za-z0-9_-]{1,64}$", name)) {
    shown <- paste(deparse(name), collapse = " ")
    problem(sprintf("%s cannot be the name of a %s", shown, what), hint = "use up to 64 letters, digits, '_' and '-'")
  }
}
