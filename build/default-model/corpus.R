# Turns the six novels of the package janeaustenr into chapters, one JSON object a line:
#   Rscript corpus.R OUT   writes OUT/train.jsonl and OUT/heldout.jsonl
# The last twelfth of every novel's chapters is held out, so that evaluation covers every novel.
out <- commandArgs(trailingOnly = TRUE)[1]
suppressMessages(library(janeaustenr))

quote_json <- function(text) {
  text <- gsub("\\", "\\\\", text, fixed = TRUE)
  text <- gsub("\"", "\\\"", text, fixed = TRUE)
  gsub("\n", "\\n", text, fixed = TRUE)
}

paragraphs <- function(lines) {
  # Lines are hard-wrapped; an empty line ends a paragraph. Underscores mark italics.
  blocks <- split(lines, cumsum(lines == ""))
  joined <- vapply(blocks, function(b) paste(trimws(b[b != ""]), collapse = " "), "")
  joined <- gsub("_", "", joined[joined != ""], fixed = TRUE)
  joined <- gsub("[[:space:]]+", " ", joined)
  paste(joined, collapse = "\n")
}

train <- character(); heldout <- character()
books <- austen_books()
for (book in levels(books$book)) {
  lines <- enc2utf8(books$text[books$book == book])
  heading <- grepl("^(chapter|volume) ?[0-9ivxlc]+\\.?|^CHAPTER |^VOLUME ", lines, ignore.case = TRUE)
  starts <- which(grepl("^chapter", lines, ignore.case = TRUE))
  ends <- c(starts[-1] - 1, length(lines))
  chapters <- character()
  for (i in seq_along(starts)) {
    body <- lines[(starts[i] + 1):ends[i]]
    body <- body[!grepl("^(volume|finis|the end|end of)", trimws(body), ignore.case = TRUE)]
    text <- paragraphs(body)
    if (nchar(text) > 500) chapters <- c(chapters, text)
  }
  held <- max(1, round(length(chapters) / 12))
  json <- paste0("{\"book\": \"", quote_json(book), "\", \"text\": \"", quote_json(chapters), "\"}")
  train <- c(train, head(json, -held))
  heldout <- c(heldout, tail(json, held))
  cat(sprintf("%-22s %3d chapters, %d held out\n", book, length(chapters), held))
}

for (name in c("train", "heldout")) {
  con <- file(file.path(out, paste0(name, ".jsonl")), open = "wb")
  writeLines(get(name), con, useBytes = TRUE)
  close(con)
}
