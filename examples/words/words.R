# Counts the words of a text, one task per word: the same flow as words.py and words.toml.
#
# causey run words.R --text "to be or not to be"

library(causey)

flow("Words") |>
  parameter("text", "to be or not to be") |>
  step("start", function(self) {
    self$words <- sort(unique(strsplit(self$text, " ")[[1]]))
  }) |>
  foreach("count", over = "words", function(self) {
    self$n <- sum(strsplit(self$text, " ")[[1]] == self$input)
    cat(self$input, self$n, "\n")
  }) |>
  join("collect", function(self, inputs) {
    self$counts <- vapply(inputs, function(task) task$n, 0L, USE.NAMES = FALSE)
  }) |>
  step("end", function(self) {
    cat(sum(self$counts), " words, the most frequent one ", max(self$counts), " times\n", sep = "")
  }) |>
  causey_main()
