# From a flow to the definition that the coordinator reads (docs/protocol.md §4).

definition <- function(flow, file) {
  if (!length(flow$steps)) problem("the flow has no steps", hint = "add one: |> step(\"start\", function(self) { … })")
  steps <- lapply(flow$steps, function(each) step_definition(flow, each))
  made <- list(format = 1L, name = flow$name, language = "r", file = basename(file), doc = flow$doc, steps = steps,
    parameters = lapply(flow$parameters, function(each) each[c("name", "type", "required", "default", "help")]),
    triggers = flow$triggers)
  if (length(flow$schedules)) made$schedules <- flow$schedules
  if (!is.null(flow$timeout)) made$timeout_seconds <- seconds(flow$timeout)
  made
}

step_definition <- function(flow, step) {
  made <- list(name = step$name, line = step$line, doc = step$doc, join = step$kind == "join", `next` = next_definition(flow, step))
  if (inherits(step$code, "causey_code")) made$code <- list(language = step$code$language, file = step$code$file)
  if (!is.null(step$retry)) made$retry <- retry_definition(step$retry)
  if (!is.null(step$timeout)) made$timeout_seconds <- seconds(step$timeout)
  if (!is.null(step$resources)) made$resources <- resources_definition(step)
  if (!is.null(step$host)) made$host <- step$host
  made
}

next_definition <- function(flow, step) {
  followers <- Filter(function(each) step$name %in% each$after, flow$steps)
  targets <- vapply(followers, function(each) each$name, "")
  if (!is.null(step$switch)) {
    cases <- step$switch[names(step$switch) != "on"]
    if (is.null(step$switch$on) || !length(cases)) {
      problem(sprintf("the switch of step '%s' is not whole", step$name), step$line, step$name, "as in switch = list(on = \"kind\", small = \"a\", large = \"b\")")
    }
    named <- Map(function(value, to) list(value = value, to = to), names(cases), unname(cases))
    return(list(switch = list(condition = step$switch$on, cases = unname(named))))
  }
  if (!length(targets)) return("end")
  each <- Filter(function(follower) follower$kind == "foreach", followers)
  if (length(each) && length(targets) > 1L) {
    problem(sprintf("step '%s' is followed by a foreach and by other steps", step$name), step$line, step$name, "put a step between them")
  }
  if (length(each)) return(list(foreach = list(to = targets, variable = each[[1]]$over)))
  if (length(targets) > 1L) return(list(branch = list(to = as.list(targets))))
  list(linear = list(to = targets))
}

retry_definition <- function(retry) {
  if (is.numeric(retry) && length(retry) == 1L) retry <- list(times = retry)
  known <- c("times", "delay", "factor", "max_delay", "jitter", "on")
  for (each in setdiff(names(retry), known)) problem(sprintf("retry has no '%s'", each), hint = did_you_mean(each, known))
  made <- list(times = as.integer(if (is.null(retry$times)) 3L else retry$times), delay_seconds = seconds(if (is.null(retry$delay)) 1 else retry$delay))
  if (!is.null(retry$factor)) made$factor <- retry$factor
  if (!is.null(retry$max_delay)) made$cap_seconds <- seconds(retry$max_delay)
  if (!is.null(retry$jitter)) made$jitter <- retry$jitter
  if (!is.null(retry$on)) made$on <- as.list(retry$on)
  made
}

resources_definition <- function(step) {
  known <- c("cpu", "memory", "gpu", "pool")
  for (each in setdiff(names(step$resources), known)) {
    problem(sprintf("resources of step '%s' have no '%s'", step$name, each), step$line, step$name, did_you_mean(each, known))
  }
  made <- as.list(step$resources)
  if (!is.null(made$memory)) made$memory_mb <- as.integer(made$memory)
  made$memory <- NULL
  made
}

# Seconds: a number, or text such as "90s", "15m", "2h", "1d".
seconds <- function(time) {
  if (is.numeric(time)) return(as.numeric(time))
  parts <- regmatches(time, regexec("^([0-9.]+)(ms|s|m|h|d)$", time))[[1]]
  if (length(parts) != 3L) problem(sprintf("'%s' is no time", time), hint = "as in \"90s\", \"15m\" or \"2h\"")
  as.numeric(parts[2]) * c(ms = 0.001, s = 1, m = 60, h = 3600, d = 86400)[[parts[3]]]
}

# `Rscript exec/causey.R describe FILE`: prints the definition and the files of the package, or what is wrong.
describe <- function(file) {
  answer <- tryCatch(withCallingHandlers(
    {
      flow <- load_flow(file)
      if (is.null(flow)) {
        loading$line <- NULL
        problem("the file defines no flow", hint = "begin with flow(\"name\") |> step(\"start\", function(self) { … })")
      }
      list(definition = definition(flow, file), files = package_files(file))
    },
    error = function(failure) if (!inherits(failure, "causey_problem")) loading$calls <- sys.calls()),
    error = function(failure) list(problem = problem_fields(failure, file)))
  cat(to_json(answer), "\n", sep = "")
  if (is.null(answer$problem)) 0L else 2L
}

problem_fields <- function(failure, file) {
  path <- normalizePath(file, mustWork = FALSE)
  if (inherits(failure, "causey_problem")) {
    line <- if (identical(failure$line, 0L)) NULL else failure$line
    return(list(code = "CSY-1111", message = failure$message, file = path, line = line, step = failure$step, hint = failure$hint))
  }
  error <- describe_failure(failure, loading$calls, NULL, dirname(path))
  list(code = "CSY-1111", message = sprintf("%s: %s", error$type, error$message), file = path,
    line = if (is.null(error$line)) loading$failed_line else error$line, hint = error$hint)
}

# The flow file and the code beside it and below, each with its path in the package.
package_files <- function(file) {
  root <- dirname(normalizePath(file))
  found <- list.files(root, pattern = "[.](R|r|RDS|rds|py|sh)$", recursive = TRUE)
  skipped <- grepl("(^|/)(renv/library|node_modules|__pycache__|target)/", found)
  found <- sort(unique(c(basename(file), found[!skipped])))
  lapply(found, function(each) list(file.path(root, each), each))
}
