# Started by Causey: `Rscript exec/causey.R host` runs steps for a worker, `describe FILE` says what a flow file defines. Loads the
# package from its sources beside this file, so that it need not be installed.

local({
  given <- commandArgs(trailingOnly = FALSE)
  script <- sub("^--file=", "", grep("^--file=", given, value = TRUE)[1])
  sources <- file.path(dirname(dirname(normalizePath(script))), "R")
  if (!requireNamespace("jsonlite", quietly = TRUE)) {
    message("causey needs the R package jsonlite; Debian: apt-get install r-cran-jsonlite, otherwise install.packages(\"jsonlite\")")
    quit(status = 3)
  }
  package <- new.env(parent = baseenv())
  for (file in sort(list.files(sources, pattern = "[.]R$", full.names = TRUE))) {
    sys.source(file, envir = package, keep.source = FALSE)
  }
  exported <- c("causey_main", "current", "flow", "foreach", "join", "merge_artifacts", "parameter", "publish", "python", "executable",
    "schedule", "step", "trigger")
  # library(causey) finds the package attached and leaves it at that.
  attach(mget(exported, envir = package), name = "package:causey", warn.conflicts = FALSE)
  for (method in c("$", "$<-", "[[", "[[<-", "names", "print")) {
    registerS3method(method, "causey_task", get(paste0(method, ".causey_task"), package), envir = baseenv())
  }
  registerS3method("print", "causey_flow", get("print.causey_flow", package), envir = baseenv())
  arguments <- commandArgs(trailingOnly = TRUE)
  status <- switch(arguments[1],
    host = package$host(),
    describe = package$describe(arguments[2]),
    stop("unknown: ", arguments[1])
  )
  quit(save = "no", status = status)
})
