namespace Espalier.Reporting;

/// <summary>The look of a page: one style sheet, one small script, one mark.</summary>
internal static class PageStyle
{
    /// <summary>A tree trained flat against a wall: a trunk with three tiers.</summary>
    public const string Mark = """
        <svg class="mark" viewBox="0 0 64 48" aria-hidden="true"><path d="M32 46V6M32 36H12q-4 0-4-4v-6M32 36h20q4 0 4-4v-6M32 25H18q-4 0-4-4v-5M32 25h14q4 0 4-4v-5M32 14h-8q-3 0-3-3V7M32 14h8q3 0 3-3V7"/><path class="wall" d="M4 46h56"/></svg>

        """;

    public const string Css = """
        :root {
          --paper: #faf8f2; --sheet: #ffffff; --ink: #1c241f; --soft: #5c6860; --rule: #e3dfd2; --well: #f2efe5;
          --leaf: #2f7a4d; --clay: #bf5b36; --slate: #3f6d94; --ochre: #b5851c; --stone: #98a098;
          --heat0: #eef3e6; --heat1: #1f6a41; --on-heat: #ffffff; --mid-heat: #1c241f;
        }
        @media (prefers-color-scheme: dark) {
          :root {
            --paper: #121714; --sheet: #191f1b; --ink: #e9ece6; --soft: #98a59b; --rule: #2b342e; --well: #20272299;
            --leaf: #6cc08b; --clay: #e58a63; --slate: #7fb0da; --ochre: #dcb356; --stone: #76827a;
            --heat0: #222b25; --heat1: #79d09a; --on-heat: #0d1410; --mid-heat: #0d1410;
          }
        }
        * { box-sizing: border-box; }
        html { -webkit-text-size-adjust: 100%; }
        body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
        main { max-width: 1064px; margin: 0 auto; padding: 56px 32px 24px; }
        footer { max-width: 1064px; margin: 0 auto; padding: 20px 32px 56px; color: var(--soft); font-size: 13px; border-top: 1px solid var(--rule); }
        header { position: relative; padding-right: 120px; margin-bottom: 36px; }
        .mark { position: absolute; right: 0; top: 0; width: 84px; height: 63px; fill: none; stroke: var(--leaf); stroke-width: 2.4; stroke-linecap: round; stroke-linejoin: round; }
        .mark .wall { stroke: var(--rule); }
        .kicker { margin: 0 0 6px; color: var(--soft); font-size: 13px; letter-spacing: .04em; }
        h1, h2, .headline, .value { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Georgia, "DejaVu Serif", serif; }
        h1 { margin: 0 0 10px; font-size: 40px; line-height: 1.12; font-weight: 600; letter-spacing: -.015em; overflow-wrap: anywhere; }
        .headline { margin: 0; max-width: 34em; font-size: 21px; line-height: 1.42; color: var(--soft); }
        h2 { margin: 0 0 4px; font-size: 26px; font-weight: 600; letter-spacing: -.01em; }
        h3 { margin: 0; font-size: 14px; font-weight: 600; }
        section { margin: 56px 0 0; }
        .lead { margin: 0 0 18px; color: var(--soft); max-width: 46em; }
        .note { margin: 8px 0 0; color: var(--soft); font-size: 13.5px; max-width: 60em; }
        .leaf { --c: var(--leaf); } .clay { --c: var(--clay); } .slate { --c: var(--slate); } .ochre { --c: var(--ochre); } .stone { --c: var(--stone); }

        .cards { display: grid; grid-template-columns: repeat(var(--n), 1fr); gap: 1px; margin: 0; background: var(--rule); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden; } .card:last-child { grid-column: span var(--last); }
        .card { background: var(--sheet); padding: 18px 20px 16px; }
        .card dt { font-size: 13px; color: var(--soft); }
        .card dd { margin: 0; }
        .card .value { font-size: 32px; line-height: 1.25; font-weight: 600; letter-spacing: -.015em; color: var(--c, var(--ink)); font-variant-numeric: lining-nums tabular-nums; }
        .card .note { margin-top: 2px; }

        .chart { margin: 20px 0 0; padding: 18px 20px 16px; background: var(--sheet); border: 1px solid var(--rule); border-radius: 10px; }
        .chart figcaption { display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: baseline; justify-content: space-between; margin-bottom: 10px; }
        .chart svg { display: block; width: 100%; height: auto; overflow: visible; }
        .chart svg.phone { display: none; }
        .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; margin-top: 20px; }
        .pair > div { display: grid; min-width: 0; }
        .pair .chart { margin: 0; }
        svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); font-variant-numeric: tabular-nums; }
        svg .tick, svg .axis { fill: var(--soft); }
        svg .axis { font-size: 11.5px; font-style: italic; }
        svg .value { font-family: inherit; font-size: 12.5px; font-weight: 600; }
        svg .grid { stroke: var(--rule); stroke-width: 1; }
        svg .base { stroke: var(--stone); stroke-width: 1; }
        svg .leader { stroke: var(--soft); stroke-width: .8; opacity: .7; }
        svg .error { stroke: var(--ink); stroke-width: 1.5; opacity: .55; }
        svg .bar { fill: var(--c); } svg .bar:hover { filter: brightness(1.12); }
        svg .line { fill: none; stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
        svg .faint { stroke-width: 1; opacity: .32; }
        svg .dashed { fill: none; stroke: var(--c); stroke-width: 1.6; stroke-dasharray: 5 4; }
        svg .ring { fill: none; stroke: var(--c); stroke-width: 1.4; }
        svg .dot { fill: var(--c); opacity: 0; } svg .dot.shown, svg .dot:hover { opacity: 1; }
        svg .cell { fill: color-mix(in oklab, var(--heat1) calc(var(--v) * 100%), var(--heat0)); }
        svg .cell:hover { stroke: var(--ink); stroke-width: 1.5; }
        svg .cell.none { fill: none; stroke: var(--rule); }
        svg .inside { font-size: 11px; pointer-events: none; } svg .inside.strong { fill: var(--on-heat); } svg .inside.mid { fill: var(--mid-heat); }
        .legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0; padding: 0; list-style: none; font-size: 13px; color: var(--soft); }
        .legend li::before { content: ""; display: inline-block; width: 10px; height: 10px; margin-right: 7px; border-radius: 3px; background: var(--c); }
        .ramp { display: flex; gap: 8px; align-items: center; font-size: 12.5px; color: var(--soft); font-variant-numeric: tabular-nums; }
        .ramp i { width: 96px; height: 10px; border-radius: 3px; background: linear-gradient(in oklab to right, var(--heat0), var(--heat1)); }

        .sample { margin: 20px 0 0; padding: 18px 20px 20px; background: var(--sheet); border: 1px solid var(--rule); border-radius: 10px; }
        .sample .prompt { display: none; }
        .voices { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 18px 28px; }
        .voices h3 { color: var(--soft); font-size: 13px; padding-bottom: 6px; border-bottom: 2px solid var(--rule); }
        .voices > div:last-child h3 { color: var(--leaf); border-color: var(--leaf); }
        blockquote { margin: 10px 0 0; font: 15.5px/1.6 "Iowan Old Style", Palatino, Georgia, "DejaVu Serif", serif; white-space: pre-line; overflow-wrap: anywhere; }
        .given { color: var(--soft); }

        .table { margin: 16px 0 0; overflow-x: auto; }
        table { width: 100%; border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
        caption { text-align: left; color: var(--soft); padding-bottom: 6px; }
        th, td { padding: 7px 14px 7px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); font-weight: 400; }
        thead th { color: var(--soft); font-size: 13px; white-space: nowrap; }
        .number { text-align: right; white-space: nowrap; }
        th.number:last-child, td.number:last-child { padding-right: 0; }

        .callout { margin: 20px 0 0; padding: 12px 18px; border-left: 3px solid var(--clay); background: var(--sheet); border-radius: 0 8px 8px 0; }
        .callout p { margin: 4px 0; }
        .code { margin: 16px 0 0; border: 1px solid var(--rule); border-radius: 10px; overflow: hidden; background: var(--sheet); }
        .code figcaption { display: flex; justify-content: space-between; align-items: center; padding: 6px 8px 6px 16px; font-size: 13px; color: var(--soft); border-bottom: 1px solid var(--rule); }
        .code pre { margin: 0; padding: 14px 16px; overflow-x: auto; font: 13.5px/1.6 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
        .copy { font: inherit; color: var(--ink); background: none; border: 1px solid var(--rule); border-radius: 6px; padding: 3px 12px; cursor: pointer; }
        .copy:hover { border-color: var(--leaf); color: var(--leaf); }
        details { margin: 16px 0 0; border-top: 1px solid var(--rule); }
        details + details { margin-top: 0; }
        details:last-child { border-bottom: 1px solid var(--rule); }
        summary { padding: 12px 0; cursor: pointer; font-weight: 600; font-size: 15px; }
        summary::marker { color: var(--leaf); }
        .inside { padding: 0 0 18px; } .inside > :first-child { margin-top: 0; }
        :focus-visible { outline: 2px solid var(--leaf); outline-offset: 2px; }

        @media (max-width: 720px) {
          main { padding: 32px 18px 16px; } footer { padding: 16px 18px 40px; }
          header { padding-right: 0; } .mark { position: static; width: 64px; height: 48px; margin-bottom: 12px; }
          h1 { font-size: 30px; } .headline { font-size: 18px; } h2 { font-size: 22px; }
          section { margin-top: 40px; }
          .cards { grid-template-columns: 1fr 1fr; } .card:last-child { grid-column: auto; } .card:last-child:nth-child(odd) { grid-column: 1 / -1; } .card { padding: 14px 14px 12px; } .card .value { font-size: 25px; }
          .pair { grid-template-columns: minmax(0, 1fr); }
          .chart { padding: 14px 12px 12px; } .chart svg.wide { display: none; } .chart svg.phone { display: block; }
        }
        @media print {
          body { background: #fff; } .copy { display: none; } .chart, .sample, .code { break-inside: avoid; }
        }

        """;

    // Pages opened from a disk may not use the clipboard; selecting the text and the old command still works there.
    public const string Script = """
        for (const button of document.querySelectorAll('.copy')) {
          button.addEventListener('click', async () => {
            const code = button.closest('figure').querySelector('code');
            try { await navigator.clipboard.writeText(code.textContent); }
            catch { const range = document.createRange(); range.selectNodeContents(code); const chosen = getSelection(); chosen.removeAllRanges(); chosen.addRange(range); document.execCommand('copy'); }
            button.textContent = 'Copied';
            setTimeout(() => { button.textContent = 'Copy'; }, 1600);
          });
        }

        """;
}
