# Values to bytes and back. R's own form is RDS, which only R reads; in flows with steps in other languages whatever has a typed form
# (numbers, text, lists of them, data frames, raw) is kept in it, so that all languages read it.

# A vector of length one is a value, any other an array; I(x) is an array of any length, and a named list an object.
to_json <- function(value) {
  if (is.null(value)) return("null")
  if (is.matrix(value)) return(array_text(vapply(seq_len(nrow(value)), function(row) to_json(I(value[row, ])), "")))
  if (is.list(value)) {
    parts <- vapply(value, to_json, "", USE.NAMES = FALSE)
    if (is.null(names(value))) return(array_text(parts))
    return(paste0("{", paste(quoted(names(value)), parts, sep = ":", collapse = ","), "}"))
  }
  if (is.factor(value)) value <- as.character(value)
  parts <- if (is.logical(value)) ifelse(value, "true", "false") else if (is.character(value)) quoted(value) else number_text(unclass(value))
  parts[is.na(value)] <- "null"
  if (length(parts) == 1L && !inherits(value, "AsIs")) parts else array_text(parts)
}

array_text <- function(parts) paste0("[", paste(parts, collapse = ","), "]")

# Its own, because jsonlite writes no number with more than 15 digits. What is rare is left to it.
quoted <- function(text) {
  if (!length(text)) return(character())
  text <- enc2utf8(as.character(text))
  escaped <- gsub("\"", "\\\"", gsub("\\", "\\\\", text, fixed = TRUE), fixed = TRUE)
  made <- paste0("\"", escaped, "\"")
  for (place in grep("[[:cntrl:]]", text)) {
    array <- as.character(jsonlite::toJSON(text[place]))
    made[place] <- substr(array, 2L, nchar(array) - 1L)
  }
  made
}

# As few digits as give the same number again.
number_text <- function(number) {
  if (is.integer(number)) return(as.character(number))
  text <- sprintf("%.15g", number)
  known <- which(is.finite(number))
  inexact <- known[as.numeric(text[known]) != number[known]]
  text[inexact] <- sprintf("%.17g", number[inexact])
  whole <- is.finite(number) & number == trunc(number) & abs(number) < 1e15
  text[whole] <- sprintf("%.0f", number[whole])
  text
}

from_json <- function(text) jsonlite::fromJSON(text, simplifyVector = FALSE)

simplified <- function(text) simplify(from_json(text))

# What a value in JSON is in R: a list of numbers, of texts or of truths becomes a vector (null is NA there), one of equally long vectors
# of numbers a matrix. jsonlite would turn what is mixed into text.
simplify <- function(value) {
  if (!is.list(value) || !length(value)) return(value)
  if (!is.null(names(value))) return(lapply(value, simplify))
  is_missing <- vapply(value, is.null, TRUE)
  is_plain <- !vapply(value, is.list, TRUE)
  kinds <- unique(vapply(value[!is_missing], function(each) if (is.numeric(each)) "number" else class(each)[1], ""))
  if (all(is_plain) && length(kinds) == 1L) {
    value[is_missing] <- NA
    return(unlist(value))
  }
  parts <- lapply(value, simplify)
  if (!any(is_plain) && all(vapply(parts, is.numeric, TRUE)) && length(unique(lengths(parts))) == 1L && is.null(unlist(lapply(parts, dim)))) {
    return(do.call(rbind, parts))
  }
  parts
}

encode <- function(value, typed = FALSE) {
  kind <- class(value)[1]
  if (typed) {
    if (is.data.frame(value) && all(vapply(value, is_column, TRUE))) {
      return(list(bytes = charToRaw(enc2utf8(table_json(value))), encoding = "table", type = kind))
    }
    if (is.raw(value) && is.null(attributes(value))) return(list(bytes = value, encoding = "bytes", type = "raw"))
    plain <- as_plain(value)
    if (!is.null(plain)) return(list(bytes = charToRaw(enc2utf8(to_json(plain$value))), encoding = "json", type = kind))
  }
  list(bytes = serialize(value, NULL, version = 3L), encoding = "rds", type = kind)
}

decode <- function(bytes, encoding, name, step, kind) {
  switch(encoding,
    rds = unserialize(bytes),
    json = simplified(as_text(bytes)),
    table = table_value(as_text(bytes)),
    text = as_text(bytes),
    bytes = bytes,
    {
      reader <- if (encoding %in% c("pickle5", "skops")) "only Python" else "not every language"
      stop(structure(class = c("causey_unreadable", "error", "condition"), list(call = NULL, message = sprintf(
        paste0("artifact '%s', which step '%s' left, is kept as %s, which %s reads (its type there is %s)\nhint: leave it as numbers, text, ",
          "lists of them or a data frame: those are kept so that every language reads them"), name, step, encoding, reader, kind))))
    })
}

as_text <- function(bytes) {
  text <- rawToChar(bytes)
  Encoding(text) <- "UTF-8"
  text
}

# list(value) in a form that JSON keeps, or NULL when it has none.
as_plain <- function(value) {
  if (is.null(value)) return(list(value = NULL))
  if (is.factor(value)) return(list(value = as.character(value)))
  if (is.matrix(value) && (is.numeric(value) || is.logical(value) || is.character(value)) && is.null(dimnames(value))) {
    return(if (is_finite(value)) list(value = value) else NULL)
  }
  extra <- setdiff(names(attributes(value)), "names")
  if (inherits(value, "AsIs") && identical(extra, "class")) extra <- character()
  if (length(extra) || is.object(value) && !inherits(value, "AsIs")) return(NULL)
  if (is.character(value) || is.logical(value) || is.numeric(value)) {
    if (!is_finite(value)) return(NULL)
    if (is.null(names(value))) return(list(value = value))
    value <- as.list(value)
  }
  if (!is.list(value)) return(NULL)
  if (!is.null(names(value)) && (anyDuplicated(names(value)) || any(!nzchar(names(value))))) return(NULL)
  parts <- lapply(value, as_plain)
  if (any(vapply(parts, is.null, TRUE))) return(NULL)
  list(value = lapply(parts, function(part) part$value))
}

# JSON has no infinities, and no NaN.
is_finite <- function(value) !is.double(value) || all(is.finite(value) | (is.na(value) & !is.nan(value)))

is_column <- function(column) {
  is.null(dim(column)) && (is.factor(column) || is.character(column) || is.logical(column) || (is.numeric(column) && !is.object(column))) &&
    is_finite(column)
}

table_json <- function(frame) {
  columns <- lapply(unname(as.list(frame)), function(column) I(if (is.factor(column)) as.character(column) else column))
  types <- vapply(frame, function(column) if (is.logical(column)) "bool" else if (is.integer(column) && !is.factor(column)) "int" else
    if (is.numeric(column)) "float" else "str", "")
  to_json(list(columns = I(names(frame)), types = I(unname(types)), values = columns))
}

table_value <- function(text) {
  table <- from_json(text)
  convert <- function(column, type) {
    missing <- vapply(column, is.null, TRUE)
    column[missing] <- NA
    switch(type, int = as.integer(unlist(column)), float = as.numeric(unlist(column)), bool = as.logical(unlist(column)),
      as.character(unlist(column)))
  }
  frame <- Map(convert, table$values, unlist(table$types))
  names(frame) <- unlist(table$columns)
  as.data.frame(frame, stringsAsFactors = FALSE, check.names = FALSE, optional = TRUE)
}

# Equal bytes, equal hash.
content_hash <- function(bytes) {
  file <- tempfile()
  on.exit(unlink(file))
  writeBin(bytes, file)
  unname(tools::md5sum(file))
}
