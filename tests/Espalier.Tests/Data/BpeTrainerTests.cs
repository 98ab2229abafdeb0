using CsCheck;
using Espalier.Data;
using Espalier.Runtime;

namespace Espalier.Tests.Data;

public sealed class BpeTrainerTests
{
    private static readonly string[] words = ["low low low low low lower lower newest newest newest newest newest newest widest widest widest"];

    [Fact]
    public void The_most_frequent_pair_is_merged_first_and_ties_go_to_the_lower_ids()
    {
        BpeVocabulary vocabulary = BpeTrainer.Train(words, new BpeTrainerOptions { VocabularySize = 265 });
        // " n" and "ne" and "ew" and "we" tie or follow; "es" and "st" occur 9 times, "we" 8 (lower 2, newest 6).
        vocabulary.Merges.Take(2).ShouldBe([("e", "s"), ("es", "t")]);
        vocabulary.Tokens.Take(3).ShouldBe(["<unk>", "<s>", "</s>"]);
        vocabulary.Tokens.Count.ShouldBe(265);
    }

    [Fact]
    public void Counts_kept_while_merging_are_those_of_counting_anew() =>
        Gen.String[Gen.Char["aab c"], 0, 60].Array[1, 4].Sample(texts =>
        {
            string[] documents = [.. texts, "ab ab"];
            BpeVocabulary learned = BpeTrainer.Train(documents, new BpeTrainerOptions { VocabularySize = 275 });
            learned.Merges.ShouldBe(CountAnew(documents, learned.Merges.Count));
        }, iter: 300);

    [Fact]
    public void The_written_tokeniser_reads_any_text_and_the_files_are_the_same_each_time()
    {
        using var folder = new TemporaryFolder();
        Tokenizer tokenizer = BpeTrainer.Train(words, new BpeTrainerOptions { VocabularySize = 280 }).Save(folder["a"], 512);
        BpeTrainer.Train(words, new BpeTrainerOptions { VocabularySize = 280 }).Save(folder["b"], 512);
        File.ReadAllBytes(folder["a/tokenizer.json"]).ShouldBe(File.ReadAllBytes(folder["b/tokenizer.json"]));
        (tokenizer.BeginId, tokenizer.EndId).ShouldBe((1, 2));
        Gen.String.Sample(text => tokenizer.Decode(tokenizer.Encode(text)) == System.Text.Encoding.UTF8.GetString(System.Text.Encoding.UTF8.GetBytes(text)), iter: 500);
        tokenizer.Encode("newest").Count.ShouldBeLessThan(4);
    }

    [Fact]
    public void Too_little_text_gives_a_smaller_vocabulary()
    {
        BpeTrainer.Train(["ab"], new BpeTrainerOptions { VocabularySize = 500 }).Tokens.Count.ShouldBe(259);
    }

    [Fact]
    public void A_size_without_room_for_the_bytes_is_refused() =>
        Should.Throw<EspalierException>(() => BpeTrainer.Train(words, new BpeTrainerOptions { VocabularySize = 100 })).Message.ShouldContain("259");

    [Fact]
    public void No_text_is_refused() => Should.Throw<EspalierException>(() => BpeTrainer.Train(["", ""])).Message.ShouldContain("no text");

    /// <summary>The plain algorithm: count all pairs again after every merge.</summary>
    private static List<(string, string)> CountAnew(string[] documents, int merges)
    {
        List<string> order = [.. ByteAlphabet.InCodePointOrder.Select(c => c.ToString())];
        List<List<string>> split = [.. documents.SelectMany(d => System.Text.RegularExpressions.Regex.Matches(d, SplitStep.Gpt2Pattern)).Select(m => ByteAlphabet.Encode(m.Value).Select(c => c.ToString()).ToList())];
        List<(string, string)> result = [];
        for (int step = 0; step < merges; step++)
        {
            (string Left, string Right) best = split.SelectMany(w => w.Zip(w.Skip(1))).GroupBy(p => p)
                .OrderByDescending(g => g.Count()).ThenBy(g => order.IndexOf(g.Key.First)).ThenBy(g => order.IndexOf(g.Key.Second)).First().Key;
            result.Add(best);
            order.Add(best.Left + best.Right);
            foreach (List<string> word in split)
            {
                for (int i = 0; i + 1 < word.Count; i++)
                {
                    if (word[i] == best.Left && word[i + 1] == best.Right)
                    {
                        word[i] += word[i + 1];
                        word.RemoveAt(i + 1);
                    }
                }
            }
        }

        return result;
    }
}
