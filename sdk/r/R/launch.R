# `Rscript flow.R run …`: hands over to the program `causey`.

launch_commands <- c("run", "show", "check", "deploy", "resume")

launch <- function() {
  given <- commandArgs(trailingOnly = FALSE)
  file <- sub("^--file=", "", grep("^--file=", given, value = TRUE)[1])
  arguments <- commandArgs(trailingOnly = TRUE)
  command <- intersect(arguments, launch_commands)[1]
  if (is.na(command)) {
    message(sprintf("usage: Rscript %s run [--parameter value ...]\n       Rscript %s resume [STEP] | show | check | deploy", basename(file), basename(file)))
    quit(save = "no", status = 2L)
  }
  program <- Sys.getenv("CAUSEY_BIN", unname(Sys.which("causey")))
  if (!nzchar(program)) {
    message("causey: the program `causey` is needed to run a flow, and was not found\nhint: set CAUSEY_BIN to its path, or put it on PATH")
    quit(save = "no", status = 2L)
  }
  rest <- arguments[-match(command, arguments)]
  quit(save = "no", status = system2(program, shQuote(c(command, file, rest))))
}
