# Flows and what is wrong with them.

package <- new.env(parent = baseenv())
for (file in sort(list.files(file.path("..", "R"), full.names = TRUE))) sys.source(file, envir = package)
with(package, {
  nothing <- function(self) NULL
  made <- flow("x", timeout = "2h") |>
    parameter("n", 3L) |>
    parameter("name", required = TRUE) |>
    step("start", nothing, retry = list(times = 2, delay = "5s"), resources = list(cpu = 2, memory = 512)) |>
    step("a", nothing) |>
    step("b", nothing, after = "start") |>
    join("both", function(self, inputs) NULL, after = c("a", "b")) |>
    foreach("each", nothing, over = "items") |>
    join("all", function(self, inputs) NULL, timeout = 90) |>
    step("end", python("end.py"))
  definition <- definition(made, "/x/flow.R")
  steps <- stats::setNames(definition$steps, vapply(definition$steps, function(each) each$name, ""))
  stopifnot(
    identical(steps$start$`next`, list(branch = list(to = list("a", "b")))), identical(steps$a$`next`, list(linear = list(to = "both"))),
    steps$both$join, identical(steps$both$`next`, list(foreach = list(to = "each", variable = "items"))), identical(steps$end$`next`, "end"),
    steps$start$retry$times == 2L, steps$start$retry$delay_seconds == 5, steps$start$resources$memory_mb == 512L, steps$all$timeout_seconds == 90,
    identical(steps$end$code, list(language = "python", file = "end.py")), definition$timeout_seconds == 7200, definition$file == "flow.R",
    definition$parameters[[1]]$type == "int", definition$parameters[[2]]$required
  )

  wrong <- function(expression) tryCatch({
    force(expression)
    NULL
  }, causey_problem = function(problem) c(problem$message, problem$hint))
  stopifnot(
    identical(wrong(flow("a b"))[1], "\"a b\" cannot be the name of a flow"),
    identical(wrong(flow("x") |> step("a", nothing) |> step("a", nothing))[1], "step 'a' is defined twice"),
    identical(wrong(flow("x") |> step("start", nothing) |> step("b", nothing, after = "strat"))[2], "did you mean 'start'?"),
    identical(wrong(flow("x") |> step("a", function() NULL))[2], "write it as function(self)"),
    identical(wrong(flow("x") |> step("a", 3))[1], "step 'a' has no function"),
    identical(wrong(seconds("soon"))[1], "'soon' is no time"),
    identical(wrong(parameter(flow("x"), "n", type = "integer"))[1], "parameter 'n' has type 'integer'"),
    identical(wrong(step(list(), "a", nothing))[1], "this verb continues a flow")
  )
})
