# Values that go to other languages and come back.

source_package <- function() {
  package <- new.env(parent = baseenv())
  for (file in sort(list.files(file.path("..", "R"), full.names = TRUE))) sys.source(file, envir = package)
  package
}
package <- source_package()

round_trip <- function(value) {
  encoded <- package$encode(value, typed = TRUE)
  list(encoding = encoded$encoding, value = package$decode(encoded$bytes, encoded$encoding, "x", "start", encoded$type))
}

same <- list(1L, 2.5, TRUE, "text", "Gr\u00fc\u00dfe \u20ac \"quoted\" \\ \n", 1:3, c(0.1, 0.2 + 0.1, 1 / 3, 1e-300, 1e300), c(TRUE, NA),
  c("a", NA), NULL, matrix(1:6, 2), list(a = 1L, b = list(TRUE, "x")))
for (value in same) {
  back <- round_trip(value)
  stopifnot(back$encoding == "json", identical(back$value, value))
}

frame <- data.frame(n = 1:3, x = c(0.1, NA, 3), name = c("a", "\u00fc", NA), ok = c(TRUE, FALSE, NA))
stopifnot(identical(round_trip(frame), list(encoding = "table", value = frame)))
stopifnot(identical(round_trip(frame[0, ])$value$n, integer()), nrow(round_trip(frame[0, ])$value) == 0L)
stopifnot(identical(round_trip(factor(c("a", "b")))$value, c("a", "b")))
stopifnot(identical(round_trip(as.raw(0:255)), list(encoding = "bytes", value = as.raw(0:255))))

# What JSON cannot keep stays R's own.
for (value in list(Inf, NaN, 1i, mean, lm(dist ~ speed, cars), as.Date("2026-11-24"), new.env())) {
  back <- round_trip(value)
  stopifnot(back$encoding == "rds")
}
stopifnot(identical(package$encode(1L)$encoding, "rds"))

unreadable <- tryCatch(package$decode(raw(), "pickle5", "x", "start", "set"), error = identity)
stopifnot(inherits(unreadable, "causey_unreadable"), grepl("artifact 'x', which step 'start' left, is kept as pickle5, which only Python reads", conditionMessage(unreadable)))
