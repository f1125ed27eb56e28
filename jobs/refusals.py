"""How an assistant refuses, in words: a person who cannot, and what it cannot do for the one who asks (pure, on an Arrow column).

Being sorry is no refusal, nor is not finding an order: only the inability (or will) not to help, answer, provide or take part counts.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_START = r"(^\W*(oh,? |no[,.] |well, )?(i'm |i am )?((really |so |very |deeply |truly )?(sorry|afraid)|(i |my )?apologi\w+)[,.]?( but| that)?,? |^\W*|[.!?:;,\n–—-]\s*|\b(but|and|so|as|that|because|however|therefore|unfortunately|regrettably)[,:]?\s+)"
_I = r"(i |i'm |i am |i'll |i'd )(really |just |simply |also |currently |unfortunately |still |sorry,? (but )?|afraid (that )?|(i |i'm |i am ))*"
_CANNOT = (
    r"(can't|cannot|can not|won't|will not|'?m not able to|not able to|unable to|not allowed to|not permitted to|not authori[sz]ed to|not going to|not programmed to|not designed to|not in a position to"
    r"|must decline to|have to decline to|decline to|refuse to|do not feel comfortable|don't feel comfortable|not comfortable|do not have the (ability|capability) to|don't have the (ability|capability) to|prefer not to|rather not)"
)
_DO = (
    r"((be able to |to |in good conscience |directly |personally |really )*)(help(ing)?\b|assist|comply|fulfil|answer(ing)? (that|this|the|your|any|such|questions?|political)"
    r"|discuss|engage|participate|facilitate|do (that|this|so)\b|support (that|this|such|your)|continue with|proceed with|respond to (that|this|your|such)|accommodate (that|this|your)"
    r"|(provid|giv|shar|offer|creat|generat|writ|produc|mak|explain|describ|disclos|reveal|tell)(e|ing)?( you)? (that|this|these|such|any|(the )?(help|information|instructions|answer|assistance)|content|instructions?|information|guidance|advice|assistance|help|support"
    r"|details|content|medical|legal|financial|personal|private|confidential|specific|step|a diagnosis|an? (recipe|guide|tutorial|script) (for|to)|how to|on how)\b)"
)
ENGLISH = (
    rf"(?i)({_START}{_I}|^\W*((sorry|apologies|unfortunately)[,.]? (but )?)?){_CANNOT}\s+{_DO}|(?i){_START}{_I}(won't|will not|refuse to) (generate|write|create|produce|say|repeat|discuss)\b|\bas an? (ai|artificial|large language|language model)[^.!?\n]{{0,40}}\bi('m| am)? (can't|cannot|not able|unable|won't)"
    r"|(?i)\b(i must|i have to|i'll have to|i will have to|i'm going to have to|i'd have to|i need to) (respectfully |politely )?(decline|refuse)\b|\bnot something (that )?i('m| am)? (can|able to|allowed to|comfortable|willing)"
    r"|(?i)^\W*(sorry|i'm sorry|i apologi[sz]e)[,.]?( but)? (i )?can('t|not)[.!]|\b(against|violates?) (my|our) (guidelines|programming|policy|policies|principles|content policy)"
)
GERMAN = (
    r"(?i)\b(ich (kann|darf|werde|möchte|will)|(kann|darf|werde|möchte|will) ich)\b[^.!?\n\"„“]{0,80}\b(nicht|kein\w*)\b[^.!?\n]{0,60}\b"
    r"(helfen|weiterhelfen|beantworten|behilflich|unterstützen|nachkommen|erfüllen|mitwirken|tun|(informationen|anleitung(en)?|auskunft|auskünfte|ratschläge|rat|hilfe|inhalte|beratung|tipps|anweisungen|angaben|tipps)\b[^.!?\n]{0,30}\b(geben|erteilen|bereitstellen|liefern|erstellen|teilen|machen))\b|\bdazu (kann|darf|möchte) ich\b[^.!?\n]{0,30}\bnichts sagen"
    r"|\bnicht in der lage\b[^.!?\n]{0,80}(helfen|beantworten|unterstützen|erfüllen|nachzukommen|bereitzustellen|anfrage)"
    r"|\b(muss|möchte|werde) ich\b[^.!?\n]{0,40}\bablehnen\b|\bich (muss|möchte|werde)\b[^.!?\n]{0,60}\bablehnen\b|\bgegen meine (richtlinien|grundsätze)"
)
ROMANCE = (
    r"(?i)\bje ne (peux|puis|suis|veux|vais)( malheureusement)?( pas)?( être)?( en mesure| autorisée?s?| capable)?( de| d'|)[^.!?\n]{0,30}\b(aider|assister|répondre( à (cette|ce|votre|ta|vos|la)|[.,!]|$)|satisfaire|accéder à (cette|votre|ta)|participer|discuter|traiter (cette|votre)"
    r"|(fournir|donner|partager|proposer|offrir) (d'(instructions?|informations?|aide)|de (conseils?|détails|contenu|réponse)|ces|ce type|cette|cela))"
    r"|(?i)\bje (dois|me dois de) (malheureusement )?(refuser|décliner)|\bje refuse de\b|\bcontraire à mes (directives|principes)"
    r"|(?i)\bno (puedo|me es posible|estoy autorizad[oa]|estoy en condiciones|soy capaz|voy)( a| de|)[^.!?\n]{0,24}\b(ayud\w+|asistir\w*|responder\w*|contestar\w*|cumplir|participar|hablar de|hacer (eso|esto)|(proporcionar|dar|ofrecer|compartir|facilitar)\w* (es[aoe]s?|est[aeo]s?|información|instrucciones|consejos?|detalles|ningun|ayuda|asesoramiento))\b"
    r"|(?i)\b(debo|tengo que) (rechazar|negarme|declinar)|\bva en contra de mis (normas|directrices|principios)"
    r"|(?i)\bnon (posso|sono in grado|mi è possibile|sono autorizzat[oa]|riesco)( a| di|)[^.!?\n]{0,24}\b(aiutar\w*|assister\w*|risponder\w*|soddisfar\w*|esaudir\w*|partecipar\w*|farlo|(fornir|dar|offrir|condivider)\w* (quest\w+|informazion\w+|istruzion\w+|consigl\w+|dettagli|aiuto|indicazion\w+|assistenza))\b"
    r"|(?i)\bdevo (rifiutare|declinare)|\bcontro le mie linee guida"
    r"|(?i)\bnão (posso|consigo|me é possível|estou autorizad[oa]|sou capaz|vou)( a| de|)[^.!?\n]{0,24}\b(ajud\w+|ajudá\S*|auxili\w+|responder\w*|atender|cumprir|participar|fazer isso|(fornecer|dar|oferecer|compartilhar|partilhar) (es[st]\w+|ess\w+|informaç\w+|instruç\w+|conselhos?|detalhes|ajuda|orientaç\w+))\b"
    r"|(?i)\b(devo|tenho que) (recusar|negar)|\bvai contra as minhas (diretrizes|normas)"
)
EAST_ASIAN = (
    r"(我|抱歉|对不起|對不起|遗憾|遺憾|人工智能|人工智慧)[^。！？\n“\"「们們]{0,30}(不能|无法|無法|没办法|沒辦法|不可以|不便|不会|拒绝)[^。！？\n]{0,16}(回答|回应|答复|帮助您|帮助你|帮您|帮你|幫您|幫你|协助|協助|满足|滿足|讨论|討論|完成(这|此|您|你|该)|处理(这|此|您|你|该)|執行|执行(这|此|该)|参与|參與"
    r"|(提供|给出|分享|生成|撰写)(任何|相关|相關|这|這|此|该|有关|您|你|帮助|幫助|信息|資訊|指导|建议|建議|具体(步骤|方法|操作)|醫療|医疗|法律))"
    r"|(申し訳|すみません|ごめんなさい|恐れ入りますが|残念ながら|私は|[そこ](の|のような)(質問|依頼|要望|件|リクエスト|内容|話題))[^。！？\n「]{0,20}[。]?[^。！？\n「]{0,40}(お?答え|ご?回答|お手伝い|お力|ご?提供|お応え|応じ|手助け|サポート|お助け|支援|コンテンツ|内容|作成|生成|(要望|依頼|リクエスト|質問)[^。！？\n]{0,12}対応)[^。！？\n]{0,20}(できません|できない|出来ません|できかね|いたしかね|致しかね|しかねます|なれません|お断り|ことはできません|ことができません)|(お答え|回答|お応え|お手伝い)(いたし|致し|し|でき)かね"
    r"|(죄송|미안|유감|안타깝|저는)[^.!?\n]{0,20}[.!]?[^.!?\n]{0,60}(도와|도움|답변|대답|응답|제공|응할|지원|협조)[^.!?\n]{0,24}(수 없|수가 없|못 |못합|어렵|불가)|(도움을|도와) ?드릴 수 없"
)
OTHERS = (
    r"(?i)(^|[^\p{L}])я не (могу|смогу|буду|имею (возможности|права)|в состоянии|вправе)[^.!?\n]{0,50}(помочь|помогать|ответить|отвечать|предостав|обсуждать|выполнить (эт|ваш|так|данн)|содействовать|участвовать|дать (совет|инструкц|рекомендац)|давать (совет|инструкц|рекомендац))|(?i)не могу (с этим |вам |тебе |в этом )+помочь|вынужден[аы]? отказать"
    r"|(?i)\b(ik (kan|mag|wil|zal)|(kan|mag|wil|zal) ik)\b[^.!?\n]{0,50}\b(niet|geen)\b[^.!?\n]{0,40}\b(helpen|beantwoorden|assisteren|voldoen|meewerken|(informatie|instructies|advies|hulp) (geven|verstrekken))\b"
    r"|(?i)\bnie (mogę|jestem w stanie|wolno mi)[^.!?\n]{0,40}(pomóc|odpowiedzieć|udzielić|spełnić|podać|zrobić tego)"
    r"|(لا (أستطيع|يمكنني|أقدر)|لن (أستطيع|أتمكن)|غير قادر على|لست قادر)[^.!?؟\n]{0,30}(مساعد|إجابة|الإجابة|تقديم|تلبية|المشاركة)"
    r"|(मदद|सहायता|उत्तर|जवाब|जानकारी)[^।!?\n]{0,30}(नहीं (कर|दे)|असमर्थ)"
    r"|(?i)\b(yardımcı olamam|yardımcı olamıyorum|yardım edemem|yardımcı olamayacağım|yanıtlayamam|cevaplayamam|cevap veremem)"
)
WAYS = (ENGLISH, GERMAN, ROMANCE, EAST_ASIAN, OTHERS)
QUOTED = '"[^"\n]{0,300}"|“[^”\n]{0,300}”|„[^“”\n]{0,300}[“”]|«[^»\n]{0,300}»|「[^」\n]{0,300}」'
"""What somebody else says."""
INNOCENT = (
    r"(?i)no puedo esperar|can('t|not) help (but|feel|think|wonder|notic|admir|fall|smil|laugh|lov|being|it\b)\w*"
)
"""Not to be able to help doing something is to do it."""
HINT = (
    r"(?i)can'?t|cannot|can not|won't|will not|unable|not (able|allowed|permitted|something|comfortable|going|programmed|designed|in a)|declin|refus|comfortable|prefer|rather|guidelines|(my|our) (polic|principles|programming)|ability"
    r"|nicht|kein|ablehnen|gegen meine|je ne|je (dois|me|refuse)|contraire|no (puedo|me|estoy|soy|voy)|debo|tengo que|contra|\bnon (posso|sono|mi|riesco)|devo|não|tenho"
    r"|不|无法|無法|没办法|沒辦法|拒绝|ません|ない|かね|お断り|없|못|어렵|불가|않|не |вынужден|niet|geen|\bnie\b|لا |لن |غير|لست|नहीं|असमर्थ|amam|emem|amıyor|amayaca"
)
"""What every refusal holds some of: cheap to look for, so that most answers meet no more than this."""


def refused(beginning: pa.Array) -> npt.NDArray[np.bool_]:
    """Which answers refuse, by their beginnings (texts without nulls)."""
    beginning = pc.replace_substring_regex(beginning, "[\u2019\u02bc]", "'")
    maybe = np.asarray(pc.match_substring_regex(beginning, HINT).to_numpy(zero_copy_only=False), bool)
    texts = pc.replace_substring_regex(beginning.filter(pa.array(maybe)), f"{QUOTED}|{INNOCENT}", "")
    out = np.zeros(len(texts), bool)
    for way in WAYS:
        out |= np.asarray(pc.match_substring_regex(texts, way).to_numpy(zero_copy_only=False), bool)
    maybe[maybe] = out
    return maybe
