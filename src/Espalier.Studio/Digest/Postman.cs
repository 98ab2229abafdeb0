using System.Net;
using System.Text;
using Espalier.Runtime;
using Espalier.Studio.Api;
using MailKit.Net.Smtp;
using MailKit.Security;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using MimeKit;

namespace Espalier.Studio.Digest;

/// <summary>Writes and sends the mails of the digest.</summary>
internal sealed class Postman(StudioOptions options, Subscriptions subscriptions, NewsDesk desk, TimeProvider clock, IServer server, ILogger<Postman> log) : BackgroundService
{
    private static readonly TimeSpan Week = TimeSpan.FromDays(7), Look = TimeSpan.FromMinutes(1);

    /// <summary>Asks whether an address wants the digest.</summary>
    /// <exception cref="EspalierException">When no mail server is set, or it does not take the mail.</exception>
    public async Task SubscribeAsync(string address, DigestPace pace, CancellationToken cancellation)
    {
        EspalierException.Require(options.Mail is not null, "This studio sends no mail: it was started without ESPALIER_SMTP_HOST and ESPALIER_SMTP_FROM.");
        if (subscriptions.Ask(address, pace) is not { } asked)
        {
            return;
        }

        string link = Link("confirm", asked.Id, "confirm");
        MimeMessage mail = Letter(asked, "Do you want Espalier's digest?",
            $"Someone, probably you, asked for what is new in an Espalier studio ({(pace is DigestPace.Weekly ? "weekly" : "at once")}).\n\nTo confirm, open this page within three days:\n{link}\n\nIf it was not you, do nothing: no other mail will come.\n",
            $"<p>Someone, probably you, asked for what is new in an Espalier studio ({(pace is DigestPace.Weekly ? "weekly" : "at once")}).</p><p><a href=\"{WebUtility.HtmlEncode(link)}\">Confirm</a> within three days.</p><p>If it was not you, do nothing: no other mail will come.</p>");
        await SendAsync([mail], cancellation).ConfigureAwait(false);
    }

    /// <summary>Sends what is due now.</summary>
    /// <returns>How many mails went out.</returns>
    public async Task<int> SendDueAsync(CancellationToken cancellation)
    {
        if (options.Mail is null)
        {
            return 0;
        }

        DateTimeOffset now = clock.GetUtcNow();
        int sent = 0;
        foreach (Subscription reader in subscriptions.Confirmed().Where(s => s.Pace is DigestPace.AtOnce || now - s.Last >= Week))
        {
            News news = await desk.SinceAsync(reader.Last, now, cancellation).ConfigureAwait(false);
            if (news.IsEmpty)
            {
                continue;
            }

            await SendAsync([Digest(reader, news)], cancellation).ConfigureAwait(false);
            subscriptions.Sent(reader.Id, now);
            sent++;
        }

        return sent;
    }

    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        while (options.Mail is not null && !stoppingToken.IsCancellationRequested)
        {
            try
            {
                await Task.Delay(Look, clock, stoppingToken).ConfigureAwait(false);
                await SendDueAsync(stoppingToken).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (stoppingToken.IsCancellationRequested)
            {
                return;
            }
            catch (Exception fault)
            {
                // Tried again with the next look; nothing is marked as sent before it is.
                log.LogWarning("{Sentence}", fault is EspalierException ? fault.Message : $"The digest could not be sent ({fault.GetType().Name}).");
            }
        }
    }

    private MimeMessage Digest(Subscription reader, News news)
    {
        var text = new StringBuilder();
        var html = new StringBuilder("<div style=\"font-family:Georgia,serif;max-width:36em\">");
        void Part(string heading, IEnumerable<(string Name, string Path, string Words)> lines)
        {
            var known = lines.ToArray();
            if (known.Length == 0)
            {
                return;
            }

            text.Append(heading).Append("\n\n");
            html.Append($"<h2>{WebUtility.HtmlEncode(heading)}</h2><ul>");
            foreach ((string name, string path, string words) in known)
            {
                text.Append($"- {name}: {words}\n  {Address}{path}\n");
                html.Append($"<li><a href=\"{WebUtility.HtmlEncode(Address + path)}\">{WebUtility.HtmlEncode(name)}</a>: {WebUtility.HtmlEncode(words)}</li>");
            }

            text.Append('\n');
            html.Append("</ul>");
        }

        Part("New best results", news.Best.Select(b => (b.System, $"/runs/{b.Run.Id}", $"perplexity {NewsDesk.Figure(b.Perplexity)}{(b.Before is { } before ? $" (before: {NewsDesk.Figure(before)})" : "")}, {RunCard.NameOf(b.Run)}")));
        Part("Runs that have ended", news.Finished.Select(r => (RunCard.NameOf(r), $"/runs/{r.Id}", r.Error.Length > 0 ? r.Error : Runs.RunFigures.Of(r).Perplexity is { } p ? $"perplexity {NewsDesk.Figure(p)}" : r.State.ToString().ToLowerInvariant())));
        Part("Systems that can be run now", news.Systems.Select(s => (s.Slug, $"/systems/{s.Slug}", s.Summary)));
        string leave = Link("unsubscribe", reader.Id, "leave");
        text.Append($"--\nNo more of these: {leave}\n");
        html.Append($"<p style=\"color:#777\"><a href=\"{WebUtility.HtmlEncode(leave)}\">No more of these</a></p></div>");
        MimeMessage mail = Letter(reader, $"Espalier: {news.Subject}", text.ToString(), html.ToString());
        mail.Headers.Add("List-Unsubscribe", $"<{Address}/digest/do/unsubscribe?id={reader.Id}&token={subscriptions.Token(reader.Id, "leave")}>");
        mail.Headers.Add("List-Unsubscribe-Post", "List-Unsubscribe=One-Click");
        return mail;
    }

    private MimeMessage Letter(Subscription reader, string subject, string text, string html)
    {
        var mail = new MimeMessage { Subject = subject, Body = new BodyBuilder { TextBody = text, HtmlBody = html }.ToMessageBody() };
        mail.From.Add(MailboxAddress.Parse(options.Mail!.From));
        mail.To.Add(MailboxAddress.Parse(reader.Address));
        return mail;
    }

    private string Link(string act, string id, string purpose) => $"{Address}/digest/answer?act={act}&id={id}&token={subscriptions.Token(id, purpose)}";

    private string Address => (options.Mail?.PublicAddress ?? server.Features.Get<IServerAddressesFeature>()?.Addresses.FirstOrDefault() ?? "http://127.0.0.1").TrimEnd('/');

    private async Task SendAsync(IEnumerable<MimeMessage> mails, CancellationToken cancellation)
    {
        MailOptions mail = options.Mail!;
        try
        {
            using var client = new SmtpClient { Timeout = 20_000 };
            await client.ConnectAsync(mail.Host, mail.Port, !mail.Tls ? SecureSocketOptions.None : mail.Port == 465 ? SecureSocketOptions.SslOnConnect : SecureSocketOptions.StartTls, cancellation).ConfigureAwait(false);
            if (mail.User is not null)
            {
                await client.AuthenticateAsync(mail.User, mail.Password ?? "", cancellation).ConfigureAwait(false);
            }

            foreach (MimeMessage one in mails)
            {
                await client.SendAsync(one, cancellation).ConfigureAwait(false);
            }

            await client.DisconnectAsync(true, cancellation).ConfigureAwait(false);
        }
        catch (Exception fault) when (fault is SmtpCommandException or SmtpProtocolException or AuthenticationException or SslHandshakeException or IOException or System.Net.Sockets.SocketException or TimeoutException or NotSupportedException)
        {
            throw new EspalierException($"The mail server {mail.Host}:{mail.Port} did not take the mail ({fault.GetType().Name}); check ESPALIER_SMTP_HOST, _PORT, _TLS, _USER and _PASSWORD.", fault);
        }
    }
}
